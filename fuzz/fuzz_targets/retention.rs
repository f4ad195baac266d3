#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| virtsnap_fuzz::retention::run(data));
