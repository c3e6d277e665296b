"""Help for testing code that reads and writes stores.

`RecordingStore` says which bytes were asked for, `FaultyStore` fails at a chosen request, and
`pcrstore.testing.contract.StoreContract` (needs pytest) is the suite that any store must pass.
"""

from pcrstore.testing.stores import Fault, FaultyStore, Recorded, RecordingStore, StoreKilled

__all__ = ["Fault", "FaultyStore", "Recorded", "RecordingStore", "StoreKilled"]
