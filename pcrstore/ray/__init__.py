"""Reading a dataset on a Ray cluster: `read_pcrstore`, and the source beneath it.

    images = read_pcrstore("s3://bucket/photos", fidelity=3, where={"split": "train"})
    images.map_batches(...)

    datasource    plans on the driver: records shared out to tasks, which read span by span
    rows          Arrow schema and tables of rows; columns that a predicate reads when it uses them
    libraries     Ray and Arrow, or an error that says what to install

Planning reads the manifest, the record tables and the columns that `where` names. Each record is
read by one task, and a record without a match by none. The version is chosen when planning, so all
tasks read the same one.

Example: of 40 images in records of 3, `where={"key": "cat/7.jpg"}` makes one task of one row, which
reads the cells of that image alone.
"""

from pcrstore.ray.datasource import PcrstoreDatasource, Predicate, read_pcrstore

__all__ = ["PcrstoreDatasource", "Predicate", "read_pcrstore"]
