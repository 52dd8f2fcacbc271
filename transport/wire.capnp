@0xb1f3a6c47d20e958;
# What stands in front of every frame. docs/wire_format.md has the bytes around it.
# Fields are only ever added at the end; a change of meaning is a new protocol version.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::transport::wire");

struct FrameHeader {
  kind @0 :UInt8;             # FrameKind
  cluster @1 :UInt64;
  epoch @2 :UInt64;
  source @3 :UInt64;
  request @4 :UInt64;
  step @5 :UInt64;
  layer @6 :UInt32;
  attempt @7 :UInt32;
  arithmeticClass @8 :UInt64;
  numRows @9 :UInt32;
  hidden @10 :UInt32;
  payloadBytes @11 :UInt64;
  payloadHash @12 :UInt64;    # XXH3-64
  assignments @13 :List(UInt32);  # row, expert, row, expert, ...
}

# What Port.address() says, before it is made printable; and what a port says to a peer before
# frames go through shared memory.
struct PortAddress {
  protocol @0 :UInt16;
  wires @1 :UInt8;            # bit 0: frames by the network, bit 1: by shared memory
  host @2 :UInt64;            # equal on both sides: shared memory can be reached
  netWorker @3 :Data;         # UCX worker address
  shmWorker @4 :Data;         # of the worker for this one peer; empty in Port.address()
}
