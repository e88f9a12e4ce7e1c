"""Slides for the tests, written with tifffile: tiled TIFF files that OpenSlide opens."""

import numpy as np

PURPLE, PINK, WHITE = (150, 90, 170), (225, 160, 200), (244, 244, 244)


def halved(pixels):
    """The means of squares of two pixels, as scanners make the levels of a pyramid."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    squares = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return squares.mean(axis=(1, 3)).round().astype(np.uint8)


def write_slide(path, pixels, mpp=0.25, n_levels=1):
    """Write a pyramid of which every level has half the resolution of the one before."""
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for level in range(n_levels):
            file.write(
                pixels,
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=min(level, 1),
                resolutionunit="NONE" if mpp is None else "CENTIMETER",
                resolution=(1, 1) if mpp is None else (1e4 / mpp / 2**level,) * 2,
                metadata=None,
            )
            pixels = halved(pixels)
    return path


def section(seed, kind="normal", width=900, height=700):
    """A section of tissue on glass: an ellipse in pink with purple nuclei, more of them in a tumor.

    Returns the pixels and the center of the tumor, which is None without one.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    tissue = ((x / width - 0.5) / 0.42) ** 2 + ((y / height - 0.5) / 0.4) ** 2 < 1
    pixels = np.where(tissue[..., None], np.uint8(PINK), np.uint8(WHITE))
    density = np.full((height, width), 0.006)
    center = None
    if kind == "tumor":
        angle = rng.uniform(0, 2 * np.pi)
        center = width * (0.5 + 0.2 * np.cos(angle)), height * (0.5 + 0.2 * np.sin(angle))
        density[np.hypot(x - center[0], y - center[1]) < 110] = 0.05
    nuclei = (rng.random((height, width)) < density) & tissue
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if dx * dx + dy * dy <= 5:
                pixels[np.roll(nuclei, (dy, dx), (0, 1))] = PURPLE
    noise = rng.normal(0, 5, (height, width, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8), center
