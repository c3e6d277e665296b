"""Any dataset as a read-only Zarr v3 group: the arrays of the zarr layout, whatever its layout is.

    view = zarr_view("s3://bucket/photos")
    i = view["image_offsets"][7]                       first byte of image 7 in each array
    view["group_1"][i[0] : view["image_offsets"][8, 0]]

    store    ZarrStore: Zarr's asynchronous interface, read-only
    keys     the keys of the group and their bytes, by range reads of either layout

A dataset in record layout has no such arrays: their chunks are put together from range reads of its
records, coalesced as the cost model finds cheapest, and the arrays beside them from the index. A
chunk holds parts of cells, so that no cell is checked here; the array `image_checksums` is for
that. An object that is missing is an error, where plain Zarr would read zeros.

Example: `image_offsets` of images with first groups of 10, 30 and 20 bytes begins with 0, 10, 40,
60 in its first column, so that `view["group_1"][10:40]` is the first scan group of image 1.
"""

from pcrstore.zarr_view.store import ZarrStore, zarr_view

__all__ = ["ZarrStore", "zarr_view"]
