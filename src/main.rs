//! The command line: parse, call the library, exit code.

fn main() {}
