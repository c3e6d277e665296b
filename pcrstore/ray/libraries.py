"""The libraries that reading on Ray needs, or an error that says what to install."""

from pcrstore.errors import MissingDependencyError

try:
    import pyarrow as pa
    from ray import data as ray_data
    from ray.data.block import BlockMetadata
    from ray.data.context import DataContext
    from ray.data.datasource import Datasource, ReadTask
    from ray.data.extensions import ArrowVariableShapedTensorArray
except ImportError as e:
    raise MissingDependencyError(
        "reading on Ray needs the ray package: pip install 'pcrstore[ray]'"
    ) from e

__all__ = [
    "ArrowVariableShapedTensorArray",
    "BlockMetadata",
    "DataContext",
    "Datasource",
    "ReadTask",
    "pa",
    "ray_data",
]
