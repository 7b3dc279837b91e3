//! Generates messages, server and client from the proto.

fn main() -> Result<(), micro_build::Error> {
    micro_build::compile(&["proto/hello.proto"])
}
