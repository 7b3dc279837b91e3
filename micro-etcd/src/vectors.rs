//! What go-micro 4.11 wrote to etcd, as it was captured: the files of `tests/vectors`.

use serde_json::Value;

/// The only key of the capture, and its value.
pub(crate) fn captured() -> (String, String) {
    let range: Value = serde_json::from_str(include_str!("../tests/vectors/etcd-range.json")).unwrap();
    let text = |member: &str| {
        let base64 = range["kvs"][0][member].as_str().unwrap();
        String::from_utf8(from_base64(base64)).unwrap()
    };
    (text("key"), text("value"))
}

/// What a Go service said that registered without a TTL.
pub(crate) const WITHOUT_TTL: &str = include_str!("../tests/vectors/etcd-ttl0-panic.txt");

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .trim_end_matches('=')
        .bytes()
        .map(|byte| ALPHABET.iter().position(|letter| *letter == byte).unwrap() as u32)
        .collect();
    digits
        .chunks(4)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - chunk.len()));
            bits.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect()
}
