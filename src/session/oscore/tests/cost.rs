//! What it costs. Ignored: a figure to look at, no promise.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement needs a clock, and this is the place for one"
)]

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints a figure: cargo test --release --lib oscore::tests::cost -- --ignored --nocapture"]
fn a_server_reads_and_answers_one_request() {
    const ROUNDS: u32 = 2000;
    let (mut client, mut server) = pair();
    let options = Options::new()
        .with(number::URI_PATH, "r")
        .with(number::CONTENT_FORMAT, [60]);
    let request = message(Code::POST, options, &[0x5a; 100]);
    let response = content(&[0xa5; 100]);
    let mut best = u128::MAX;
    for _ in 0..20 {
        let datagrams: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let (outer, _) = client.protect_request(&request).unwrap();
                outer.encode().unwrap()
            })
            .collect();
        let begin = Instant::now();
        for datagram in &datagrams {
            let outer = Message::decode(datagram).unwrap();
            let mut got = server.unprotect_request(&outer).unwrap();
            let answer = server
                .protect_response(&mut got.binding, &response, PivUse::Reuse)
                .unwrap();
            assert!(!answer.encode().unwrap().is_empty());
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(ROUNDS));
    }
    println!("parse, unprotect, protect, serialise 100 B: {best} ns, best of 20");

    let begin = Instant::now();
    for _ in 0..ROUNDS {
        SecurityContext::new(&server_parameters()).unwrap();
    }
    let each = begin.elapsed().as_nanos() / u128::from(ROUNDS);
    println!("derive a context: {each} ns");
    println!("a context: {} bytes", size_of::<SecurityContext>());
}
