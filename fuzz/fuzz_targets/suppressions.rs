#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pregon_fuzz::suppressions(input));
