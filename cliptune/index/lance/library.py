"""LanceDB as cliptune imports it: without the calls to remote catalogues, until they are used.

They are generated code, of which an index in a folder uses nothing: 1.2 of the 3.4 seconds of
processor time that `import lancedb` takes, and 25 MB. Their types are there. Who has imported
LanceDB before has it whole.

Importing this starts LanceDB's threads: so it is imported where an index is opened, and never
before a fork.
"""

from __future__ import annotations

from importlib.util import find_spec

from cliptune.extras import stubbed

_CATALOGUES = "lance_namespace_urllib3_client"
_spec = find_spec(_CATALOGUES)
# The package without what it imports by itself; its modules are found all the same.
with stubbed(_CATALOGUES, __path__=list(_spec.submodule_search_locations or ()) if _spec else []):
    import lancedb

__all__ = ["lancedb"]
