"""A contest on the same images: pcrstore, WebDataset, MosaicML Streaming (MDS) and LitData.

contest      the program: data sets, cases, rounds, the table
arena        who takes part, on which link, and how one run is made and timed
driver_*     one contestant each, a process of its own in the peers' environment
client       what the drivers share: how they are asked, how an epoch is timed, the transform
shards       the same images as shards of each peer
environment  a virtual environment for the peers
verdicts     what the figures must be
plot         bars
"""
