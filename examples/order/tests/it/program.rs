//! The program as its users run it: what it says to arguments that cannot be, and what it keeps to
//! itself.

use std::process::{Command, Output};

fn order(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_order")).args(arguments).env("RUST_LOG", "trace").output().unwrap()
}

fn lines_of_the_program(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_cannot_be_is_one_line_that_says_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("order.db").display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, expected) in [
        (["--registry", "eureka://127.0.0.1:8761"], "scheme=eureka, known=memory: static:"),
        (["--registry", "static:no-address"], "expected name=host:port"),
        (["--broker", "amqp://127.0.0.1:5672"], "scheme=amqp, known=memory:"),
        (["--database", "oracle://127.0.0.1/x"], "scheme=oracle, known=sqlite:FILE"),
        (["--database", "sqlite:/no/such/folder/x.db"], "the database file cannot be opened"),
        (["--listen", "nonsense"], "expected a free host:port (address=nonsense)"),
        (["--listen", &address], "expected a free host:port"),
    ] {
        // An option may be given once.
        let mut all = arguments.to_vec();
        if arguments[0] != "--database" {
            all.extend(["--database", &database]);
        }
        let output = order(&all);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = lines_of_the_program(&output);
        assert!(said.len() == 1 && said[0].starts_with("order: ") && said[0].contains(expected), "{said:?}");
    }
}

#[test]
fn ways_to_ask_for_goods_that_do_not_go_together_are_refused() {
    for (arguments, expected) in [
        (&["--dtm", "dtm://127.0.0.1:1"][..], "expected --wire dtm with --dtm"),
        (&["--wire", "grpc", "--dtm", "dtm://127.0.0.1:1"], "expected --wire dtm with --dtm"),
        (&["--wire", "dtm", "--dtm", "dtm://127.0.0.1:1"], "expected --listen HOST:PORT"),
        (
            &["--wire", "dtm", "--dtm", "dtm://127.0.0.1:1", "--listen", "127.0.0.1:7", "--product", "shop"],
            "expected --product HOST:PORT",
        ),
    ] {
        let output = order(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = lines_of_the_program(&output);
        assert!(said.len() == 1 && said[0].starts_with("order: ") && said[0].contains(expected), "{said:?}");
    }
    let output = order(&["--wire", "carrier-pigeon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("events, grpc, dtm"));
}

/// Port 1: nobody listens there.
#[test]
fn a_server_that_is_away_is_one_line_with_backend_address_and_cause() {
    let cases: [(&str, &str, &str, bool); 4] = [
        ("--registry", "consul://127.0.0.1:1", "127.0.0.1:1", cfg!(feature = "registry-consul")),
        ("--broker", "kafka://127.0.0.1:1", "127.0.0.1:1", cfg!(feature = "broker-kafka")),
        ("--database", "mysql://root@127.0.0.1:1/x", "127.0.0.1:1", cfg!(feature = "tx-mysql")),
        ("--database", "postgres://postgres@127.0.0.1:1/x", "127.0.0.1:1", cfg!(feature = "tx-postgres")),
    ];
    for (option, url, address, is_compiled_in) in cases {
        let began = std::time::Instant::now();
        let output = order(&[option, url, "--listen", "127.0.0.1:0"]);
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{url} took {:?}", began.elapsed());
        assert_eq!(output.status.code(), Some(1), "{url}");
        let said = lines_of_the_program(&output);
        assert!(said.len() == 1 && said[0].starts_with("order: "), "{said:?}");
        if is_compiled_in {
            assert!(said[0].contains(address) && said[0].to_lowercase().contains("refused"), "{said:?}");
        } else {
            assert!(said[0].contains("turn on the feature"), "{said:?}");
        }
    }
}

#[test]
fn a_secret_in_a_url_is_never_shown() {
    for (option, url) in [
        ("--registry", "consul://:canary-7f3a@127.0.0.1:8500"),
        ("--registry", "static:app:canary-7f3a@127.0.0.1"),
        ("--broker", "kafka://app:canary-7f3a@127.0.0.1:9092"),
        ("--database", "mysql://app:canary-7f3a@127.0.0.1/x"),
        ("--database", "app:canary-7f3a@tcp(127.0.0.1:3306)/x"),
        ("--database", "password=canary-7f3a host=127.0.0.1:5432"),
        ("--database", "sqlite:x.db?password=canary-7f3a"),
    ] {
        let output = order(&[option, url]);
        assert_eq!(output.status.code(), Some(1), "{option} {url}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("canary-7f3a"), "{option} {url}: {text}");
    }
}
