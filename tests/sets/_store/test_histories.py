"""Random histories of a writer, killed and out of space, lose nothing that was committed."""

import pytest

from tests.fuzz import writer
from tests.sets._store.test_killed import needs_fork

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@needs_fork
def test_histories_with_kills_and_full_disks():
    counts = writer.run(8, seed=0)
    assert counts["histories"] == 8
    assert counts["killed"] > 2
    assert counts["full disk"] > 2
    assert counts["committed"] > 20
