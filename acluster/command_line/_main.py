"""The command-line parser; the commands are implemented in `_commands`.

Only argparse is imported here, so that ``--help`` and usage errors appear at once.
"""

import argparse
import errno
import inspect
import sys
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import acluster
from acluster.command_line import _output

_INPUT_HELP = {
    "model": "the model file, as written by acluster fit or the method save() of a classifier",
    "store": "the store to read, as written by acluster convert or FeatureSetsWriter",
}

# These report bad files, arguments and a lack of disk or memory. Others are bugs of acluster.
_FAILURES = (ValueError, TypeError, LookupError, OSError, ImportError, RuntimeError, MemoryError)

_ATTENTION_OPTIONS = ("--png", "--thumbnail", "--scale")  # each with a value

_DESCRIPTION = """\
Work with stores of local features and train attention cluster classifiers on them.

For a first run you need a folder with one .npy file per item, each of shape (number of local
features, number of columns), and a CSV table of labels with the columns id and label. The id of
an item is the name of its file without .npy.

  acluster convert features/ videos.zarr --labels labels.csv
  acluster info videos.zarr
  acluster fit videos.zarr --out videos.model --hold-out 0.2
  acluster search videos.zarr --out videos.model --hold-out 0.2
  acluster predict videos.model new.zarr --out predictions.csv
  acluster attention videos.model videos.zarr item7 --png item7.png
  acluster report videos.model held_out.zarr --out report.html
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command and its arguments; by default those of the process.

    Returns
    -------
    int
        0 on success, 1 after an error and 130 after Ctrl-C.
    """
    _output.prepare()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _make_parser().parse_args(_mark_ids(given))
    try:
        from acluster.command_line import _commands

        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            getattr(_commands, options.command)(options)
        _output.flush()
    except BrokenPipeError:
        pass  # the reader, such as `head`, has closed the pipe
    except KeyboardInterrupt:
        _output.show(f"acluster {options.command}: interrupted", error=True)
        return 130
    except _FAILURES as error:
        _output.show(f"acluster {options.command}: {_text_of(error)}", error=True)
        return 1
    finally:
        _output.close()
    return 0


def _text_of(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += ". Free some space, and run the command again."
    return text


def _mark_ids(arguments: list[str]) -> list[str]:
    """Put a NUL before the last argument of ``attention`` if it is an id that begins with "-".

    argparse would read it as an option. Arguments of a process contain no NUL.
    """
    if arguments[:1] != ["attention"] or "--" in arguments:
        return arguments
    marked, n_positional, rest = arguments[:1], 0, iter(arguments[1:])
    for argument in rest:
        if argument in _ATTENTION_OPTIONS:
            marked += [argument, *islice(rest, 1)]
        elif argument in ("-h", "--help") or argument.partition("=")[0] in _ATTENTION_OPTIONS:
            marked.append(argument)
        else:
            n_positional += 1
            is_id = n_positional == 3 and argument.startswith("-")
            marked.append(f"\0{argument}" if is_id else argument)
    return marked


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _output.show(f"warning: {message}", error=True)


class _Command(_output.Parser):
    """A parser whose help may end with the parameters of the classifiers."""

    lists_parameters = False

    def format_help(self) -> str:
        if self.lists_parameters:
            # Importing the classifiers imports torch, so only this help waits for it.
            from acluster.command_line._commands import describe_parameters

            self.epilog = describe_parameters()
        return super().format_help()


def _make_parser() -> argparse.ArgumentParser:
    parser = _output.Parser(
        "acluster", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"acluster {acluster.__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", title="commands", parser_class=_Command
    )
    for add_arguments, summary, inputs in (
        (_info, "show what a store contains", ["store"]),
        (_validate, "read a whole store and check it", ["store"]),
        (_convert, "write local features from files to a store", []),
        (_extract, "extract the local features of a folder of files", []),
        (_merge, "write the items of several stores to one", []),
        (_fit, "train a classifier on a store", ["store"]),
        (_search, "search for the best parameters, and train with them", ["store"]),
        (_predict, "predict the labels of items in a store or in media files", ["model"]),
        (_transform, "write the global features of a store's items", ["model", "store"]),
        (_attention, "show the attention weights of one item", ["model", "store"]),
        (_evidence, "write what each local feature adds for each class", ["model", "store"]),
        (_report, "write a page about a model: scores, mistakes, attention", ["model", "store"]),
    ):
        command = commands.add_parser(
            add_arguments.__name__.strip("_"),
            help=summary,
            description=inspect.getdoc(add_arguments),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name in inputs:
            command.add_argument(name, help=_INPUT_HELP[name])
        add_arguments(command)
    return parser


# Each function adds the arguments of a command; `--help` prints its docstring.


def _info(command: _Command) -> None:
    """Show what a store contains: items, modalities, columns and attributes.

    Example:

      acluster info videos.zarr
    """


def _validate(command: _Command) -> None:
    """Read a store from end to end, check it against its format and show what it contains.

    Example:

      acluster validate videos.zarr
    """


def _convert(command: _Command) -> None:
    """Convert local features from another format to a store.

    The source is one of the following:

      a folder of files with one item each, of shape (number of local features, number of columns):
      .npy; .npz with the array features; .h5 or .hdf5 with the dataset features, as CLAM and
      TRIDENT write it; .pt or .pth with a tensor, or a dict with the tensor features;
      a folder with such files in subfolders, which are modalities or parts of the ids (see below);
      an .npz archive with one such array per item, or with ID/features and ID/coords;
      an .h5 or .hdf5 file with a group per item that has the dataset features, and perhaps coords;
      with a dataset per item; or with a dataset per item and modality, in the groups of either;
      a .parquet, .arrow or .feather table with one row per item, whose columns of lists of lists
      are features, and which may have the columns id, label, group and weight; or a folder of such
      tables;
      a store, to change its dtype or its columns; its places are kept.

    The id of an item is its path below the folder, without the suffix: 7, or case3/7. Subfolders
    are modalities, with one file each for an item, if there is only one subfolder, or if files of
    the same name have different numbers of columns. They are parts of the ids if no name occurs in
    two of them. Otherwise, the ids in the table of labels decide, or --subfolders. The groups
    in an .h5 file are treated likewise.

    The table of labels has the column id, and may have label, group and weight; each item needs a
    row, and each row an item. If you name a column (--id, --label, --group, --weight, --split),
    only the named ones are used. Several columns after --label are labels of 0 and 1, of which an
    item may have any number.

    Run the same command again to resume a conversion that was interrupted.

    Example:

      acluster convert features/ videos.zarr --labels labels.csv --dtype float16
      acluster convert h5_files/ slides.zarr --labels cases.csv --id slide_id --label subtype
          --group case_id --split split=train
    """
    command.add_argument("source", help="a folder, an archive, a table or a store")
    command.add_argument("store", help="the store to write, or to resume")
    command.add_argument("--labels", metavar="CSV", help="a table with one row per item")
    _add_columns(command)
    command.add_argument("--weight", metavar="COLUMN", help="the column of the sample weights")
    command.add_argument(
        "--split", metavar="COLUMN=VALUE", help="convert only the items with this value"
    )
    command.add_argument(
        "--only-matching",
        action="store_true",
        help="leave out items without a row in the table, and rows without an item",
    )
    command.add_argument(
        "--subfolders", choices=("modalities", "items"), help="what the subfolders are"
    )
    command.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        help="dtype of the stored features; by default float16 if they are, else float32",
    )


def _add_columns(command: _Command) -> None:
    """Add the columns of a table of labels."""
    command.add_argument("--id", metavar="COLUMN", help="the column of the ids; by default id")
    command.add_argument(
        "--label",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="the column of the label, or several of 0 and 1; put them after the store",
    )
    command.add_argument(
        "--group", metavar="COLUMN", help="the column of what is kept together in splits"
    )


def _extract(command: _Command) -> None:
    """Extract the local features of videos, sounds, images or slides, and write them to a store.

    Every file of the folder and its subfolders is an item, whose id is its path in the folder. Name
    a backbone for each modality that you want: "descriptor", which is fast and needs no download; a
    pretrained network, transformers:NAME, timm:NAME, torchvision:NAME or FILE.onnx; or a function,
    package.module:function.

    Files that cannot be read are left out, and listed in STORE.failed.csv; faults of the others
    are in STORE.warnings.csv. Run the same command again to continue after an interruption, or with
    new files.

    Example:

      acluster extract videos/ videos.zarr --labels folders --rgb descriptor --audio descriptor
      acluster extract slides/ slides.zarr --labels slides.csv --tiles descriptor --mpp 0.5
          --tissue 0.5
    """
    command.add_argument("folder", help="the folder of the files")
    command.add_argument("store", help="the store to write, or to continue")
    _add_view_options(command)
    command.add_argument(
        "--labels", metavar="CSV", help="a table with one row per file, or the word folders"
    )
    _add_columns(command)
    command.add_argument("--workers", type=int, metavar="N", help="files that are read at a time")
    command.add_argument(
        "--worker-kind",
        choices=("threads", "processes"),
        default="threads",
        help="what reads files; a crash or a hang ends only a process, and its file fails",
    )
    command.add_argument(
        "--seconds-per-file",
        type=float,
        metavar="S",
        help="a file fails if a process reads it for longer",
    )
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="of a backbone")
    command.add_argument("--device", default="auto", help="of a network, such as cuda:1")
    command.add_argument(
        "--on-error",
        choices=("skip", "raise", "missing"),
        default="skip",
        help="leave the file out, stop, or only lack the modality that cannot be read",
    )
    command.add_argument("--retry-failed", action="store_true", help="try failed files again")
    command.add_argument(
        "--part", default="1/1", metavar="I/N", help="extract only one of N parts of the files"
    )
    command.add_argument(
        "--flush-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how much work a killed process may lose",
    )
    command.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="dtype of the stored features; by default float16",
    )


def _add_view_options(command: _Command) -> None:
    """Add what is read of a file, and the backbones."""
    for name, what in (
        ("rgb", "frames"),
        ("flow", "stacks of optical flow"),
        ("audio", "log-mel patches of the sound"),
        ("tiles", "tiles of images and slides"),
    ):
        command.add_argument(f"--{name}", metavar="BACKBONE", help=f"what describes {what}")
    command.add_argument(
        "--frames", type=int, default=25, metavar="N", help="frames and stacks per video"
    )
    command.add_argument("--fps", type=float, metavar="RATE", help="or their number per second")
    command.add_argument(
        "--size", type=int, default=224, metavar="PIXELS", help="the sides of frames and tiles"
    )
    command.add_argument(
        "--mpp", type=float, metavar="MICRONS", help="microns per pixel of tiles; by default as is"
    )
    command.add_argument(
        "--stride", type=int, metavar="PIXELS", help="from a tile to the next; by default --size"
    )
    command.add_argument(
        "--tissue", type=float, default=0.0, metavar="SHARE", help="the least tissue in a tile"
    )
    command.add_argument(
        "--flow-method", choices=("tvl1", "dis", "skimage"), default="tvl1", help="optical flow"
    )
    command.add_argument(
        "--flow-device", default="cpu", metavar="DEVICE", help="of --flow-method tvl1, such as cuda"
    )
    command.add_argument(
        "--patch", type=int, default=96, metavar="N", help="the length of a log-mel patch in 10 ms"
    )
    command.add_argument(
        "--patch-hop", type=int, metavar="N", help="from one patch to the next; by default --patch"
    )


def _merge(command: _Command) -> None:
    """Write the items of several stores to one store, in this order.

    The stores need the same modalities, columns and attributes, and ids that are distinct. Memory
    is bounded. Run the same command again to resume a merge that was interrupted.

    Example:

      acluster merge part1.zarr part2.zarr whole.zarr
    """
    command.add_argument("stores", nargs="+", metavar="store", help="the stores to read")
    command.add_argument("out", help="the store to write, or to resume")


def _fit(command: _Command) -> None:
    """Train an attention cluster classifier on the items of a store and their labels.

    A store with several modalities trains one attention cluster per modality. Sample weights in
    the store are used. If the store has groups, --hold-out, --cv and early stopping keep the items
    of a group together.

    --set takes the parameters of the Python class: numbers, names without quotes, and true, false
    and null (for None). Local features are standardized unless you pass --set standardize=false.
    Ctrl-C stops the training; the model file then has the weights learned so far.

    Example:

      acluster fit videos.zarr --out videos.model --set cluster_size=16 n_attended=null
    """
    command.lists_parameters = True
    _add_model(command)
    command.add_argument(
        "--cv",
        type=int,
        metavar="FOLDS",
        help="cross-validate on the training items first, and report the accuracy",
    )
    _add_splits(command)
    command.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="a folder for checkpoints; run the same command again to resume a killed fit",
    )


def _search(command: _Command) -> None:
    """Search for the parameters with the best cross-validated score, and train with them.

    Each --param names a parameter and the values to try; all combinations are cross-validated, and
    trained together. Without --param, the candidates are those of docs/about/portfolio.rst: the
    defaults, n_attended=null, n_attended=1, weight_decay=0.001, hidden_features=64 with
    max_iter=30, and pyramid_levels=3. --set gives parameters that all candidates have.

    With --halving, all candidates are trained for a few epochs, the best third of them for three
    times as many, and so on, up to max_iter.

    If the store has groups, the folds and --hold-out keep the items of a group together. The score
    of the best candidate is optimistic, since it was chosen by it: --hold-out reports the accuracy
    on items that the search has not seen. After Ctrl-C, the scores in the folds that are done are
    printed and written to --csv.

    Example:

      acluster search videos.zarr --out videos.model --hold-out 0.2
      acluster search videos.zarr --out videos.model --param learning_rate 0.001 0.01
          --param cluster_size 16 64 --cv 5 --scoring balanced_accuracy --csv results.csv
    """
    command.lists_parameters = True
    _add_model(command)
    command.add_argument(
        "--param",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter and the values to try, written as for --set; may be repeated",
    )
    command.add_argument(
        "--cv", type=int, default=5, metavar="FOLDS", help="the number of folds; by default 5"
    )
    command.add_argument(
        "--scoring",
        default="accuracy",
        metavar="NAME",
        help="the scorer of scikit-learn to compare candidates by; by default accuracy",
    )
    command.add_argument(
        "--halving", action="store_true", help="train only the best candidates for all epochs"
    )
    _add_splits(command)
    command.add_argument(
        "--csv", metavar="FILE", help="a table to write, with all candidates and their folds"
    )
    command.add_argument(
        "--json", action="store_true", help="print the results as one line of JSON"
    )


def _add_model(command: _Command) -> None:
    command.add_argument("--out", required=True, metavar="MODEL", help="the model file to write")
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the classifier; put them after the store",
    )


def _add_splits(
    command: _Command,
    help_of_hold_out: str = "the fraction of the items to hold out, such as 0.2; their accuracy is "
    "printed",
) -> None:
    command.add_argument("--hold-out", type=float, metavar="FRACTION", help=help_of_hold_out)
    command.add_argument(
        "--group",
        action=argparse.BooleanOptionalAction,
        help="require that the store has groups, or ignore them; by default they are used if there "
        "are any",
    )


def _predict(command: _Command) -> None:
    r"""Predict the label of each item, as a CSV table with the columns id and prediction.

    The items are those of a store; or media files, and those in folders, if the model was fitted
    to a store of acluster.extraction.extract. The model knows the view and the backbone, and
    the features are extracted in the same way. Files that cannot be read are named on stderr, and
    the exit status is then 1.

    The file that --out names is in UTF-8 and has ids and labels as they are in the store. On
    stdout, control characters in them are escaped, as in \x1b. Spreadsheets may run values that
    begin with =, +, - or @ as formulas; import such a file as text.

    If the store has labels, the accuracy is printed too. It is too optimistic on items that the
    model was trained on.

    Example:

      acluster predict videos.model new.zarr --proba --out predictions.csv
      acluster predict videos.model clip.mp4
    """
    command.add_argument("paths", nargs="+", metavar="PATH", help="a store, or media files")
    command.add_argument("--proba", action="store_true", help="add the probability of each class")
    command.add_argument("--out", metavar="CSV", help="the table to write; by default stdout")
    _add_jobs(command)
    command.add_argument(
        "--trust",
        action="store_true",
        help="import and run the views and backbones that the model names, if they are not "
        "acluster's; only for models from people you trust",
    )


def _transform(command: _Command) -> None:
    """Write the global feature of each item, one per row, to a zarr array.

    Run the same command again to resume one that was killed.

    Example:

      acluster transform videos.model videos.zarr --out global.zarr --jobs 4
    """
    command.add_argument("--out", required=True, metavar="ZARR", help="the array to write")
    _add_jobs(command)


def _add_jobs(command: _Command) -> None:
    command.add_argument(
        "--jobs",
        type=_n_jobs,
        metavar="N",
        help="the number of processes that share the items of a store; -1 for all cores",
    )


def _n_jobs(text: str) -> int:
    if (number := int(text)) == 0:
        raise argparse.ArgumentTypeError("0 processes cannot work; pass 1 or more, or -1")
    return number


def _attention(command: _Command) -> None:
    """Show the weight that each attention unit gives to each local feature of an item.

    With --png, the weights are bars, at their times if the store has the places "seconds". If a
    store of one modality has the places "x" and "y", their mean over the units is a map.

    --thumbnail draws the map over the picture of the item: its image or slide, or the folder of
    them, in which the id names it. x and y are pixels of this file. If you have a smaller picture
    of a slide, --scale says how many pixels of the slide one of its pixels is.

    Example:

      acluster attention videos.model videos.zarr item7 --png item7.png
      acluster attention slides.model slides.zarr s7.svs --png s7.png --thumbnail slides/
    """
    command.add_argument(
        "item",
        type=lambda text: text.removeprefix("\0"),  # see _mark_ids
        help="the id of the item, or its position in the store",
    )
    _add_picture_options(command, "the figure to write; by default a CSV table is printed")


def _evidence(command: _Command) -> None:
    """Write how much each local feature speaks for each class, and against it.

    The evidence of an item and its constant add up to its logits. It is a CSV table with a row per
    local feature and one for the constant. If FILE ends with ".zarr", it is a store: its local
    features are the evidence, with a column per class and the same ids and places. The constant is
    a modality of its own there. An interrupted command continues such a store.

    With --png, the evidence of one item is drawn for the predicted class and the next two, or for
    those of --class: over time, or as a map over x and y and --thumbnail, as by "attention".

    Example:

      acluster evidence videos.model videos.zarr --item item7 --png why.png
      acluster evidence videos.model videos.zarr --item item7 --class dog --class cat
      acluster evidence videos.model videos.zarr --out evidence.zarr
    """
    command.add_argument(
        "--item",
        metavar="ITEM",
        help="the id or the position of a single item; default: all items. If the id begins with "
        '"-", write --item=-ID',
    )
    command.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="CLASS",
        help="a class or label to explain; may be repeated. Default: all, or the second of two",
    )
    command.add_argument(
        "--out", metavar="FILE", help="the table or the store to write; default: print the table"
    )
    _add_picture_options(command, "the figure of one item to write, instead of a table")


def _add_picture_options(command: _Command, help_of_png: str) -> None:
    command.add_argument("--png", metavar="FILE", help=help_of_png)
    command.add_argument(
        "--thumbnail", metavar="PATH", help="the image or slide below the map, or their folder"
    )
    command.add_argument(
        "--scale", type=float, metavar="FACTOR", help="how many pixels of x a pixel is wide"
    )


def _report(command: _Command) -> None:
    """Write a page about a model and its predictions for the labeled items of a store.

    The page is one HTML file that loads nothing from the network: the sizes and classes of the
    items, the learning curve, scores with confidence intervals, the confusion matrix, the
    calibration, the most confident mistakes with the evidence of their local features, the
    attention units, and the importance of the modalities.

    The items must not be those of the training, which would make the scores too high. Pass another
    store or, after acluster fit --hold-out 0.2, the same store and the same --hold-out and --group:
    the items that were held out are then scored.

    If the store has groups, the confidence intervals draw whole groups; --no-group ignores them.

    Example:

      acluster report videos.model held_out.zarr --out report.html
      acluster report videos.model videos.zarr --hold-out 0.2 --out report.html
    """
    command.add_argument("--out", required=True, metavar="HTML", help="the file to write")
    command.add_argument(
        "--mistakes", type=int, default=12, metavar="N", help="how many mistakes to show"
    )
    _add_splits(command, "score the items that acluster fit holds out with this fraction")
