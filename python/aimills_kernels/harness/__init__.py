"""The harness: correctness first, then time, and a record of both.

`env` says where a record was made, `timing` takes times, `ceilings` measures what the device can
do, `bench` makes records, `overhead` the host's cost of a call, `gpu` is the one command for a
GPU node.
"""
