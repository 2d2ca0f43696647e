#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmferry_fuzz::ova_reader(data));
