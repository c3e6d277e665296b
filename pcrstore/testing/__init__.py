"""Help for testing code that reads and writes stores, and for testing stores.

    code under test --> RecordingStore --> FaultyStore --> a store
                        .requests          fails at the requests that it is told to

`RecordingStore` says which bytes were asked for, `FaultyStore` fails at a chosen request, and
`pcrstore.testing.contract.StoreContract` (needs pytest) is the suite of tests that a store of one's
own must pass before it goes where pcrstore takes a URL.

Examples:
    The second request is lost, and the object is not there:

    >>> from pcrstore.storage import open_store
    >>> faulty = FaultyStore(open_store("memory://testing"), {1: Fault.LOST_REQUEST})
    >>> store = RecordingStore(faulty)
    >>> store.put("a", b"01234")
    >>> try:
    ...     store.put("b", b"56789")
    ... except OSError as e:
    ...     print(e)
    b: made to fail before the request (LOST_REQUEST)
    >>> store.get("a", max_bytes=100)
    b'01234'
    >>> [(r.op, r.name, r.n_bytes) for r in store.requests]
    [('put', 'a', 5), ('get', 'a', 5)]
    >>> store.delete(["a"])
"""

from pcrstore.testing.stores import Fault, FaultyStore, Recorded, RecordingStore, StoreKilled

__all__ = ["Fault", "FaultyStore", "Recorded", "RecordingStore", "StoreKilled"]
