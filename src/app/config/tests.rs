use std::{fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A directory with a configuration file of `text`.
struct Case {
    dir: TempDir,
    env: Vec<(String, String)>,
    options: Vec<String>,
}

fn case(text: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tramline.toml"), text).unwrap();
    Case {
        dir,
        env: Vec::new(),
        options: Vec::new(),
    }
}

impl Case {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("tramline.toml")
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        load(&Inputs {
            file: Some(self.file()),
            env: self.env.clone(),
            options: self.options.clone(),
        })
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap()
    }

    /// What is wrong, without the directory's name.
    fn wrong(&self) -> String {
        let errors = self.load().unwrap_err().to_string();
        errors.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

const NAME: &str = "server_name = \"hub.example\"\n";

fn with(text: &str) -> Case {
    case(&format!("{NAME}{text}"))
}

#[test]
fn the_server_name_is_enough() {
    let config = case(NAME).loaded().config;

    assert_eq!(config.server_name, "hub.example");
    assert_eq!(
        config.https.listen.addresses(),
        ["127.0.0.1:8448".parse().unwrap()]
    );
    assert_eq!(config.coap.addresses(), ["127.0.0.1:5683".parse().unwrap()]);
    assert_eq!(
        config.admin.listen.addresses(),
        ["127.0.0.1:9090".parse().unwrap()]
    );
    assert_eq!(config.coap.plain, PlainCoap::Loopback);
    assert!(config.registration.token.is_none());
}

#[test]
fn a_missing_server_name_says_every_way_to_set_it() {
    let wrong = case("").wrong();

    assert!(
        wrong.starts_with("error[CONFIG_MISSING_KEY]: `server_name`"),
        "{wrong}"
    );
    for way in ["TRAMLINE_SERVER_NAME", "-O server_name=", "tramline init"] {
        assert!(wrong.contains(way), "{wrong}");
    }
}

#[test]
fn without_any_configuration_it_says_where_it_looked_and_how_to_get_one() {
    let inputs = Inputs {
        options: vec!["log.level=debug".to_owned()],
        ..Inputs::default()
    };
    let wrong = load(&inputs).unwrap_err().to_string();

    let here = std::env::current_dir().unwrap().join("tramline.toml");
    for part in [
        "error[CONFIG_NOT_FOUND]: no configuration found: ",
        &here.display().to_string(),
        "`tramline init SERVER_NAME`",
        "--config FILE",
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    assert!(!wrong.contains("server_name` has no value"), "{wrong}");
}

#[test]
fn a_server_name_that_is_none_is_refused() {
    let wrong = case("server_name = \"not a name\"").wrong();

    assert!(wrong.contains("tramline.toml:1: `server_name`"), "{wrong}");
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
    for (text, line, key, meant) in [
        (
            "\n[https]\nlisen = \"off\"",
            4,
            "https.lisen",
            "https.listen",
        ),
        ("[log]\n\nlvl = \"info\"", 4, "log.lvl", "log.level"),
        ("listen = \"off\"", 2, "listen", "store.url"),
        ("[htps]\nlisten = \"off\"", 3, "htps.listen", "https.listen"),
        ("log.fromat = \"json\"", 2, "log.fromat", "log.format"),
        (
            "https = { cert-file = \"x\" }",
            2,
            "https.cert-file",
            "https.cert_file",
        ),
    ] {
        let wrong = with(text).wrong();

        let expected =
            format!("error[CONFIG_UNKNOWN_KEY]: tramline.toml:{line}: unknown key `{key}`");
        assert!(wrong.starts_with(&expected), "{wrong}");
        if key == "listen" {
            assert!(wrong.contains(".listen`?"), "{wrong}");
        } else {
            assert!(
                wrong.ends_with(&format!("did you mean `{meant}`?")),
                "{wrong}"
            );
        }
    }
}

#[test]
fn an_unknown_key_near_nothing_points_to_the_list() {
    let wrong = with("frobnicate = 1").wrong();

    assert!(wrong.contains("`tramline config` lists"), "{wrong}");
}

#[test]
fn a_section_written_as_a_key_is_told_how_to_write_it() {
    let wrong = with("https = \"127.0.0.1:1\"").wrong();

    assert!(wrong.contains("write [https]"), "{wrong}");
}

#[test]
fn a_value_of_the_wrong_kind_names_key_line_and_fix() {
    for (text, key, fix) in [
        (
            "[https]\nlisten = 8448",
            "https.listen",
            "in quotes: \"127.0.0.1:8448\"",
        ),
        (
            "[https]\nlisten = \"localhost:8448\"",
            "https.listen",
            "names are not looked up; write its address: \"127.0.0.1:8448\"",
        ),
        (
            "[https]\nlisten = \"hub.example:443\"",
            "https.listen",
            "\"0.0.0.0:443\" for every address",
        ),
        (
            "[https]\nlisten = \"::1\"",
            "https.listen",
            "write the port too: \"[::1]:8448\"",
        ),
        (
            "[https]\nlisten = [8448]",
            "https.listen",
            "in quotes: \"127.0.0.1:8448\"",
        ),
        (
            "[https]\nlisten = \"8448\"",
            "https.listen",
            "\"127.0.0.1:8448\"",
        ),
        (
            "[https]\nlisten = [\"127.0.0.1:1\", 2]",
            "https.listen",
            "in quotes",
        ),
        ("[https]\nlisten = []", "https.listen", "\"off\""),
        (
            "[limits]\nmedia_size = 50",
            "limits.media_size",
            "\"64MiB\"",
        ),
        (
            "[limits]\nmedia_size = \"50MB\"",
            "limits.media_size",
            "MiB",
        ),
        (
            "[limits]\nmedia_size = \"99999999TiB\"",
            "limits.media_size",
            "MiB",
        ),
        ("[limits]\ndrain = \"10\"", "limits.drain", "\"30s\""),
        ("[limits]\nshards = \"8\"", "limits.shards", "from 1 to 256"),
        ("[limits]\nshards = 0", "limits.shards", "from 1 to 256"),
        ("[limits]\nshards = -1", "limits.shards", "from 1 to 256"),
        (
            "[limits]\nlogin_per_address = \"5\"",
            "limits.login_per_address",
            "burst",
        ),
        (
            "[limits]\nlogin_per_address = \"0/s\"",
            "limits.login_per_address",
            "burst",
        ),
        ("[coap]\nplain = true", "coap.plain", "\"loopback\""),
        ("[log]\nlevel = \"verbose\"", "log.level", "debug"),
        ("[log]\nformat = 2024-01-01", "log.format", "\"json\""),
        (
            "[store]\nurl = \"postgres://db\"",
            "store.url",
            "not in this release",
        ),
        ("[store]\nurl = \"hub.db\"", "store.url", "sqlite:"),
        (
            "[https]\npublic_url = \"hub.example\"",
            "https.public_url",
            "https://",
        ),
    ] {
        let wrong = with(text).wrong();

        let expected = format!("error[CONFIG_WRONG_VALUE]: tramline.toml:3: `{key}`");
        assert!(wrong.starts_with(&expected), "{text}: {wrong}");
        assert!(wrong.contains(fix), "{text}: {wrong}");
    }
}

#[test]
fn what_is_no_toml_names_the_line() {
    let wrong = with("[https\nlisten = 1").wrong();

    assert!(
        wrong.starts_with("error[CONFIG_SYNTAX]: tramline.toml:2: not TOML"),
        "{wrong}"
    );
    assert_eq!(wrong.lines().count(), 1);
}

#[test]
fn a_key_that_is_set_twice_is_named() {
    let wrong = with("[log]\nlevel = \"info\"\nlevel = \"warn\"").wrong();

    assert!(
        wrong.starts_with("error[CONFIG_SYNTAX]: tramline.toml:4: not TOML: `level` is set twice"),
        "{wrong}"
    );
}

#[test]
fn a_whole_name_below_another_section_is_told_where_it_went() {
    let wrong = with("[log]\nlimits.shards = 3").wrong();

    assert!(wrong.contains("unknown key `log.limits.shards`"), "{wrong}");
    assert!(wrong.contains("did you mean `limits.shards`?"), "{wrong}");
    assert!(wrong.contains("[log]"), "{wrong}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let wrong = case("[https]\nlisen = 1\nlisten = 2").wrong();

    assert_eq!(wrong.lines().count(), 3, "{wrong}");
}

#[test]
fn federation_takes_lists_keys_and_a_proxy() {
    let key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";
    let text = format!(
        "[federation]\nenabled = true\nallow = [\"*.example\", \"Box.test:8448\"]\n\
         deny = \"evil.example\"\nproxy = \"http://127.0.0.1:3128/\"\n\
         well_known = \"hub.example:443\"\n\
         pinned_keys = [\"a.example ed25519:1 {key}\", \"a.example  ed25519:2 {key}=\"]\n\
         old_keys = [\"ed25519:a1 {key} 1700000000000\"]"
    );
    let loaded = with(&text).loaded();
    let federation = &loaded.config.federation;

    assert!(federation.enabled);
    let shown = |key: &str| {
        let mut settings = loaded.settings.iter();
        let setting = settings.find(|setting| setting.key.name == key);
        setting.unwrap().value.clone()
    };
    assert_eq!(
        shown("federation.allow"),
        json!(["*.example", "box.test:8448"])
    );
    assert_eq!(shown("federation.deny"), json!(["evil.example"]));
    assert_eq!(shown("federation.proxy"), json!("http://127.0.0.1:3128"));
    assert_eq!(
        shown("federation.pinned_keys"),
        json!([
            format!("a.example ed25519:1 {key}"),
            format!("a.example ed25519:2 {key}")
        ])
    );
    assert_eq!(
        shown("federation.old_keys"),
        json!([format!("ed25519:a1 {key} 1700000000000")])
    );
    let lists = federation.lists();
    assert!(lists.welcomes(ruma::server_name!("a.example")).is_ok());
    assert!(lists.welcomes(ruma::server_name!("evil.example")).is_err());
    assert!(lists.welcomes(ruma::server_name!("other.test")).is_err());
    let ours = with("").loaded().config.federation;
    assert!(!ours.enabled && ours.lists() == crate::session::server_list::ServerList::default());
}

#[test]
fn what_is_wrong_with_a_key_of_federation_says_how_to_write_it() {
    for (text, part) in [
        ("allow = [\"a b\"]", "write names or patterns"),
        (
            "deny = [\"x\", 5]",
            "found [\"x\", 5]: number 2 of the list: write it in quotes: \"5\"",
        ),
        ("proxy = \"socks5://a:1\"", "http://host:port"),
        ("proxy = \"http://u:p@a:1\"", "http://host:port"),
        ("well_known = \"https://a\"", "hub.example:443"),
        (
            "pinned_keys = [\"a.example ed25519:1\"]",
            "has not three words",
        ),
        (
            "pinned_keys = [\"a.example ed25519:1 AAAA\"]",
            "32 bytes in base64",
        ),
        ("old_keys = [\"a1 AAAA 1\"]", "no id of an Ed25519 key"),
        ("enabled = \"yes\"", "true or false"),
    ] {
        let wrong = with(&format!("[federation]\n{text}")).wrong();
        assert!(wrong.contains("CONFIG_WRONG_VALUE"), "{wrong}");
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
}

#[test]
fn file_beats_default_environment_beats_file_and_option_beats_all() {
    let level = |case: &Case| {
        let loaded = case.loaded();
        let setting = loaded
            .settings
            .iter()
            .find(|setting| setting.key.name == "log.level");
        let setting = setting.unwrap().clone();
        (loaded.config.log.level.0, setting.source)
    };

    let case = case(NAME);
    assert_eq!(level(&case), ("info".to_owned(), Source::Default));
    let case = with("[log]\nlevel = \"warn\"");
    let file = Source::File {
        path: case.file(),
        line: 3,
    };
    assert_eq!(level(&case), ("warn".to_owned(), file));
    let case = case.env("TRAMLINE_LOG__LEVEL", "error");
    let env = Source::Env("TRAMLINE_LOG__LEVEL".to_owned());
    assert_eq!(level(&case), ("error".to_owned(), env));
    let case = case.option("log.level=debug").option("log.level=trace");
    assert_eq!(level(&case), ("trace".to_owned(), Source::Option));
}

#[test]
fn the_environment_alone_can_configure_a_hub() {
    let case = case("")
        .env("TRAMLINE_SERVER_NAME", "env.example")
        .env("TRAMLINE_HTTPS__LISTEN", "127.0.0.1:1,[::1]:2")
        .env("TRAMLINE_LIMITS__SHARDS", "3")
        .env(
            "TRAMLINE_COAP__LISTEN",
            "[\"127.0.0.1:4\", \"127.0.0.1:5\"]",
        );

    let config = case.loaded().config;

    assert_eq!(config.server_name, "env.example");
    assert_eq!(config.https.listen.addresses().len(), 2);
    assert_eq!(config.coap.listen.addresses().len(), 2);
    assert_eq!(config.limits.shards.0, 3);
}

#[test]
fn a_variable_that_was_meant_as_a_setting_is_not_overlooked() {
    for (variable, meant) in [
        ("TRAMLINE_HTTPS__LISEN", "`https.listen`"),
        ("TRAMLINE_HTTPS_LISTEN", "`TRAMLINE_HTTPS__LISTEN`"),
        ("TRAMLINE_SERVERNAME", "`TRAMLINE_SERVER_NAME`"),
    ] {
        let wrong = case(NAME).env(variable, "x").wrong();

        assert!(wrong.contains(variable), "{wrong}");
        assert!(
            wrong.ends_with(&format!("did you mean {meant}?")),
            "{wrong}"
        );
    }
}

#[test]
fn variables_that_an_orchestrator_adds_are_not_ours() {
    let case = case(NAME)
        .env("TRAMLINE_PORT", "tcp://10.0.0.1:80")
        .env("TRAMLINE_SERVICE_HOST", "10.0.0.1")
        .env("TRAMLINE_CONFIG", "elsewhere");

    assert!(case.load().is_ok());
}

#[test]
fn an_option_without_a_value_is_refused_without_repeating_what_may_be_secret() {
    let wrong = case(NAME).option("registration.token:planted").wrong();

    assert!(
        wrong.starts_with("error[CONFIG_NOT_AN_ASSIGNMENT]"),
        "{wrong}"
    );
    assert!(!wrong.contains("planted"), "{wrong}");
}

#[test]
fn relative_paths_start_at_the_directory_of_the_file() {
    let case = with("[store]\nurl = \"sqlite:data/hub.db\"\nmedia_dir = \"/var/media\"");

    let config = case.loaded().config;

    let StoreUrl::Sqlite(path) = config.store.url;
    assert_eq!(path, case.dir.path().join("data/hub.db"));
    assert_eq!(config.store.media_dir.0, PathBuf::from("/var/media"));
    assert_eq!(
        config.signing_key_file.0,
        case.dir.path().join("keys/signing.pem")
    );
}

#[test]
fn relative_paths_of_the_command_line_start_where_the_command_is_given() {
    let file = with("[federation]\nca_file = \"of-file.pem\"").loaded();
    let case = with("[federation]\nca_file = \"of-file.pem\"").option("federation.ca_file=ca.pem");
    let option = case.option("store.url=sqlite:hub.db").loaded().config;

    let of_file = file.config.federation.ca_file.unwrap().0;
    assert!(of_file.is_absolute() && of_file.ends_with("of-file.pem"));
    assert_eq!(
        option.federation.ca_file.unwrap().0,
        PathBuf::from("ca.pem")
    );
    assert_eq!(option.store.url, StoreUrl::Sqlite(PathBuf::from("hub.db")));
    let env = with("")
        .env("TRAMLINE_FEDERATION__CA_FILE", "env.pem")
        .loaded();
    assert!(env.config.federation.ca_file.unwrap().0.is_absolute());
}

#[test]
fn a_file_that_somebody_named_has_to_be_there() {
    let inputs = Inputs {
        file: Some(PathBuf::from("/nonexistent/tramline.toml")),
        ..Inputs::default()
    };

    let wrong = load(&inputs).unwrap_err().to_string();

    assert!(wrong.starts_with("error[CONFIG_UNREADABLE]"), "{wrong}");
}

#[test]
fn secrets_show_in_no_output_and_no_error() {
    let case = with("[registration]\ntoken = \"planted-a\"\nshared_secret = \"planted-b\"")
        .env("TRAMLINE_ADMIN__TOKEN", "planted-c");
    let loaded = case.loaded();

    let json: String = as_json(&loaded).map(|key| key.to_string()).collect();
    for output in [as_text(&loaded), json, format!("{loaded:?}")] {
        assert!(output.contains("registration"), "{output}");
        assert!(!output.contains("planted"), "{output}");
    }
    let wrong = with("[registration]\ntoken = [\"planted\"]").wrong();
    assert!(!wrong.contains("planted"), "{wrong}");
    let wrong = with("[registration]\ntoken = \"planted").wrong();
    assert!(!wrong.contains("planted"), "{wrong}");
    let wrong = with("[registration]\ntoken = planted").wrong();
    assert!(!wrong.contains("planted"), "{wrong}");
}

#[test]
fn a_secret_has_one_source() {
    let wrong = with("[registration]\ntoken = \"a\"\ntoken_file = \"b\"").wrong();

    assert!(
        wrong.starts_with("error[CONFIG_CONFLICT]: tramline.toml:3"),
        "{wrong}"
    );
    assert!(with("[admin]\ntoken = \"a\"").load().is_ok());
}

#[test]
fn two_tcp_listeners_do_not_share_an_address() {
    let wrong = with("[admin]\nlisten = \"127.0.0.1:8448\"").wrong();
    assert!(
        wrong.contains("`admin.listen` and `https.listen`"),
        "{wrong}"
    );

    let any = with("[admin]\nlisten = \"127.0.0.1:0\"\n[https]\nlisten = \"127.0.0.1:0\"");
    assert!(any.load().is_ok());
}

#[test]
fn every_default_reads_back_as_what_it_shows() {
    for key in sections().flat_map(|section| section.keys) {
        let shown = (key.default_json)();
        assert_eq!(shown.is_null(), key.default.is_empty(), "{}", key.name);
        if let Some(text) = shown.as_str() {
            assert_eq!(text, key.default, "{}", key.name);
        }
        assert!(key.optional || key.name == "server_name" || !shown.is_null());
        assert!(!key.doc.trim().is_empty(), "{}", key.name);
    }
}

#[test]
fn the_file_of_init_loads_as_it_is_and_with_every_line_switched_on() {
    let text = file_for("hub.example", &[]);
    assert!(case(&text).load().is_ok());
    for list in ["allow", "deny", "notaries", "pinned_keys", "old_keys"] {
        let line = format!("\n# {list} = [\"…\"]\n");
        assert!(text.contains(&line), "{list} is a list, and shown as one");
    }

    let on: String = text
        .lines()
        .filter(|line| !line.contains('…')) // unset keys have no default to switch on
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = case(&on).loaded();
    let unset = |setting: &&Setting| setting.source == Source::Default;
    assert!(
        loaded
            .settings
            .iter()
            .filter(unset)
            .all(|setting| setting.value.is_null()),
        "{on}"
    );
}

#[test]
fn the_list_of_keys_tells_value_default_source_and_reload_class() {
    let case = with("[limits]\ndrain = \"90s\"");
    let loaded = case.loaded();

    let text = as_text(&loaded);
    let line = text.lines().find(|line| line.starts_with("limits.drain"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    let place = format!("{}:3", case.file().display());
    assert_eq!(
        words,
        ["limits.drain", "\"90s\"", "\"10s\"", &place, "live"]
    );

    let key = as_json(&loaded).find(|key| key["key"] == "limits.drain");
    let key = key.unwrap();
    assert_eq!(key["value"], json!("90s"));
    assert_eq!(key["default"], json!("10s"));
    assert_eq!(key["from"]["line"], json!(3));
    assert_eq!(key["reload"], json!("live"));
}

#[test]
fn every_key_of_the_contract_is_in_the_documentations_table() {
    let table = as_markdown();

    for key in [
        "server_name",
        "store.url",
        "https.listen",
        "https.cert_file",
        "https.key_file",
        "coap.listen",
        "coap.plain",
        "coaps.listen",
        "coaps.cert_file",
        "coaps.key_file",
        "quic.listen",
        "quic.key_file",
        "quic.idle",
        "wake.allow_private_addresses",
        "admin.listen",
        "registration.token",
        "registration.shared_secret_file",
        "log.level",
    ] {
        assert!(table.contains(&format!("| `{key}` |")), "{key}");
    }
    assert!(
        table.contains("| `server_name` | **mandatory** |"),
        "{table}"
    );
}

fn any_key() -> impl Strategy<Value = String> {
    let keys = sections().flat_map(|section| section.keys.iter().map(|key| key.name.to_owned()));
    prop_oneof![
        prop::sample::select(keys.collect::<Vec<_>>()),
        "[a-z_.]{0,12}"
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    "\\PC{0,10}|-?[0-9]{1,25}|[0-9]{1,21}(MiB|GiB|s|ms|h|/s burst [0-9]{1,3})|off|127.0.0.1:[0-9]{1,6}|\\[?[0-9:.,\\]]{0,12}"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_setting_is_taken_or_refused_by_name(key in any_key(), value in any_value()) {
        let as_option = case(NAME).option(&format!("{key}={value}"));
        let _ = as_option.load();

        let variable = format!("TRAMLINE_{}", key.to_uppercase().replace('.', "__"));
        let _ = case(NAME).env(&variable, &value).load();
    }

    #[test]
    fn any_file_is_read_or_refused(
        lines in prop::collection::vec("[a-z]{1,6} = (\\PC{0,8}|[\\[{\"]{1,9})|\\[(store|https|limits|\\PC{0,4})\\]|\\PC{0,9}", 0..5)
    ) {
        let _ = case(&format!("{NAME}{}", lines.join("\n"))).load();
    }
}

#[test]
fn a_file_nested_without_end_is_refused() {
    let nested = format!("{NAME}limits = {}", "[".repeat(100_000));
    case(&nested).load().unwrap_err();
}
