"""S3 servers on this machine, for measurements.

    shaped     nginx behind a link of a given rate, round trip and first byte; counts requests
    link       the link as root on Linux: two network namespaces, joined by TUN devices
    proxy      the link for everybody else: a TCP proxy on the loopback
    listing    ListObjectsV2 over a folder, for both servers
    counting   a plain server without nginx, which counts requests by kind of object
    bulk       what a link gives: many streams of ranged GETs
"""
