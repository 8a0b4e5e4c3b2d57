//! What the command line takes and refuses.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

fn login(line: &str) -> Result<Option<Login>, Failure> {
    let Verb::Client(args) = parse(line).unwrap().verb else {
        panic!("not a client line")
    };
    args.login()
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_help_with_an_example_and_takes_json() {
    fn check(command: &mut clap::Command, path: &str) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example:\n  tramline "), "{path}: {help}");
        assert!(help.contains("--json"), "{path}: {help}");
        for verb in command.get_subcommands_mut() {
            let path = format!("{path} {}", verb.get_name());
            if !path.ends_with(" help") {
                check(verb, &path);
            }
        }
    }
    let mut command = Cli::command();
    command.build();
    check(&mut command, "tramline");
}

#[test]
fn the_contracts_lines_parse() {
    for line in [
        "tramline init hub.example --dir /srv/hub",
        "tramline serve --config hub.toml -O log.level=debug -O https.listen=off",
        "tramline user add ana --password-file pw --admin --config hub.toml",
        "tramline user list --json --config hub.toml",
        "tramline user password ana --password-file pw",
        "tramline user disable ana --config hub.toml",
        "tramline user enable ana",
        "tramline user devices ana --json",
        "tramline link ana --device D --out d.json --for coap-client --config hub.toml",
        "tramline unlink ana --device D",
        "tramline config --json",
        "tramline --json fsck",
        "tramline backup --out /backup/hub --config hub.toml --json",
        "tramline restore /backup/hub --dir /srv/hub --no-check",
        "tramline demo",
        "tramline lab --profile radio-100 --listen 127.0.0.1:0 --to 127.0.0.1:5683 --loss 30%",
        "tramline lab --list --json",
        "tramline client --credentials ana.json status",
        "tramline client --credentials ana.json logout --json",
        "tramline client -v --credentials ana.json rooms",
        "tramline client --credentials ana.json rooms --cost",
        "tramline client --login https://127.0.0.1:8448 ana --ca ca.pem rooms",
        "tramline client --login coap://127.0.0.1:5683 ana send !room hello",
        "tramline client --credentials ana.json sync --timeout 30 --json",
        "tramline client --credentials phone.json link-class nb-iot --daily-kilobytes 50",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn wrong_usage_is_refused_by_the_parser() {
    for line in [
        "tramline init",
        "tramline bogus",
        "tramline lab --profile none",
        "tramline client --credentials a --login https://h ana rooms",
        "tramline client --login https://h",
        "tramline client --credentials a --ca b rooms",
        "tramline client --credentials a read !room --limit 0",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn who_names_an_authority_beside_a_credential_file_is_told_that_the_file_keeps_one() {
    for line in [
        "tramline client --credentials a --ca b rooms",
        "tramline client --ca b --credentials a rooms",
    ] {
        let said = explained(parse(line).unwrap_err().render().to_string());
        assert!(said.contains("keeps the certificate of the --ca"), "{said}");
    }
    let other = parse("tramline init").unwrap_err().render().to_string();
    assert_eq!(explained(other.clone()), other);
}

#[test]
fn a_login_url_names_its_door() {
    let https = login("tramline client --login https://[::1]:8448/ ana rooms");
    let coap = login("tramline client --login coap://hub.example ana rooms");

    let https = https.unwrap().unwrap();
    assert_eq!(https.door, LoginDoor::Https);
    assert_eq!(https.authority.as_str(), "[::1]:8448");
    assert_eq!(coap.unwrap().unwrap().door, LoginDoor::Coap);
}

#[test]
fn a_login_url_of_another_kind_is_wrong_usage_and_shows_no_password() {
    for url in [
        "http://h",
        "h:8448",
        "https://ana:planted@h",
        "https://h/path",
    ] {
        let failure = login(&format!("tramline client --login {url} ana rooms")).unwrap_err();

        assert_eq!(failure.exit, Exit::Usage, "{url}");
        assert!(!failure.to_string().contains("planted"), "{failure}");
    }
}

#[test]
fn what_is_wrong_with_a_command_line_is_one_line_for_programs() {
    let said = parse("tramline init").unwrap_err().render().to_string();

    let line = on_one_line(&said);

    assert!(!line.contains('\n'), "{line}");
    assert!(
        line.contains("were not provided: <SERVER_NAME>; Usage: tramline init"),
        "{line}"
    );
}
