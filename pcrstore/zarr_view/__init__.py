"""zarr_view."""

from pcrstore.zarr_view.store import ZarrStore, zarr_view

__all__ = ["ZarrStore", "zarr_view"]
