#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nola_fuzz::gguf::model(bytes));
