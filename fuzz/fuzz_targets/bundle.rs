#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nola_fuzz::bundle::read(bytes));
