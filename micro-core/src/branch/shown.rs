//! URLs of branches as they may be told: without the account and password that some of them hold.

use std::borrow::Cow;

/// What stands in place of an account.
const HIDDEN: &str = "***";

/// A branch's URL without its account: `http://***@HOST/PATH` of `http://USER:PASSWORD@HOST/PATH`. For
/// errors, logs and the reasons of a rollback.
pub fn shown_url(url: &str) -> Cow<'_, str> {
    if url.contains("://") {
        return without_accounts(url);
    }
    match account_end(url) {
        Some(end) => Cow::Owned(format!("{HIDDEN}{}", &url[end..])),
        None => Cow::Borrowed(url),
    }
}

/// A text of others, a reason say, with each URL in it as [`shown_url`] shows it.
pub fn without_accounts(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("://").map(|index| index + "://".len()) {
        let (before, after) = rest.split_at(begin);
        shown.push_str(before);
        rest = after;
        if let Some(end) = account_end(after) {
            shown.push_str(HIDDEN);
            rest = &after[end..];
        }
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Where the `@` is that ends an account at the beginning of `text`.
fn account_end(text: &str) -> Option<usize> {
    let is_end = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '<' | '>');
    let url = &text[..text.find(is_end).unwrap_or(text.len())];
    let host = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(end) = host.rfind('@') {
        return Some(end);
    }
    // A password with a bare slash ends what looks like the host, and its beginning looks like the port.
    let port = if host.starts_with('[') { None } else { host.split_once(':').map(|(_, port)| port) };
    let is_port = port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    if is_port { None } else { url.rfind('@') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_hidden_and_nothing_else() {
        for (url, expected) in [
            ("http://me:secret@h:1/pay?method=Pay", "http://***@h:1/pay?method=Pay"),
            ("https://me@h/pay", "https://***@h/pay"),
            ("http://me:se@cret@h/pay", "http://***@h/pay"),
            ("http://me:se/cret@h/pay", "http://***@h/pay"),
            ("http://:secret@h/@me", "http://***@h/@me"),
            ("me:secret@h:1/shop.Product/Deduct", "***@h:1/shop.Product/Deduct"),
            ("registry:///shop.Product/shop.Product/Deduct", "registry:///shop.Product/shop.Product/Deduct"),
            ("http://h:1/guests/@me", "http://h:1/guests/@me"),
            ("http://h/?to=me@h", "http://h/?to=me@h"),
            ("http://[::1]:9000/@me", "http://[::1]:9000/@me"),
            ("h:1/shop.Product/Deduct", "h:1/shop.Product/Deduct"),
            ("", ""),
            ("://", "://"),
        ] {
            assert_eq!(shown_url(url), expected);
            assert_eq!(shown_url(&shown_url(url)), expected, "once more is the same");
        }
    }

    #[test]
    fn each_url_of_a_text_is_shown_without_its_account() {
        let text =
            r#"url:http://me:secret@h:1/a return failed: Get "https://you:hidden@i/b": refused by bob@h FAILURE"#;
        let expected = r#"url:http://***@h:1/a return failed: Get "https://***@i/b": refused by bob@h FAILURE"#;
        assert_eq!(without_accounts(text), expected);
        assert_eq!(without_accounts("no stock, ask bob@h"), "no stock, ask bob@h");
    }
}
