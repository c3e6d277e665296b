"""S3 servers on this machine, for measurements.

    serve      the program: serve a folder behind a link, or measure the link
    shaped     nginx behind a link of a given rate, round trip and first byte; counts requests
    link       the link by two network namespaces joined by TUN devices
    proxy      the link by a TCP proxy
    counting   a plain server in this process, which counts requests by kind of object
    listing    ListObjectsV2 over a folder, for both servers
    base       what the servers share
    bulk       what a link gives: many streams of ranged GETs

Which server is used when:

    server             link       needs                     for
    CountingS3         none       nothing                   counts of requests and bytes
    Shaped             `link`     nginx, root on Linux      speeds; the default
    Shaped (--proxy)   `proxy`    nginx                     speeds, where one is not root

A proxy has no loss and no slow start, and copies every byte in Python; `link` does what a wire
does, under the kernel's TCP. `tc netem` would do with less code, but few kernels have it.
"""
