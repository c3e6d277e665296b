"""Measurements of speed, size and memory: `python -m benchmarks` lists them.

    python -m benchmarks NAME [options] [--json FILE]

    speed/     pcrstore alone: convert, decode, load, open, shuffle, cache, bytes on the wire
    peers/     the contest with WebDataset, MosaicML Streaming and LitData on the same images
    server/    an S3 behind a link of a given rate and round trip; a server that counts
    needs      what a benchmark cannot do without, looked for before anything is prepared
    results    figures with units and bounds, printed as they come; the JSON of a run
    data       real JPEGs, again under other names, and datasets of them
    measuring  wall clock, CPU time, resident memory of a tree of processes

A program is a module with `NEEDS`, `add_options(parser)` and `run(args, report)`; the table of
programs is in `__main__`. A run ends with 0, with 1 where a figure is out of its bounds, and with 2
where something that it needs is missing. What is right or wrong rather than fast or slow is tested
by `scripts/soak`.
"""
