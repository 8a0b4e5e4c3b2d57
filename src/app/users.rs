//! `tramline user add`: from the command line to the request that makes an account.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use ruma::{ServerName, UserId};

use super::{
    failure::Failure,
    operator::Request,
    secrets::{self, Secret},
};

/// The request that makes the account `localpart`; asks for a password if no file has it.
pub fn request(
    localpart: &str,
    password_file: Option<&Path>,
    admin: bool,
    server_name: &ServerName,
) -> Result<Request, Failure> {
    let localpart = checked_localpart(localpart, server_name)?;
    let password = match password_file {
        Some(path) => password_from(path)?,
        None => prompt_twice(&format!("@{localpart}:{server_name}"))?,
    };
    Ok(Request::AddUser {
        localpart,
        password,
        admin,
    })
}

/// Reads a password from a file, or from stdin where the file is `-`.
pub fn password_from(path: &Path) -> Result<Secret, Failure> {
    let path = if path == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        path
    };
    secrets::read_file(path).map_err(|error| Failure::failed(error.code(), error))
}

/// Asks for a password once.
pub fn prompt(question: &str) -> Result<Secret, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "PASSWORD_PROMPT",
            "there is no terminal to ask for a password; give --password-file FILE, or - for stdin",
        ));
    }
    let password = rpassword::prompt_password(format!("{question}: "))
        .map_err(|error| Failure::failed("PASSWORD_PROMPT", error))?;
    if password.is_empty() {
        return Err(Failure::failed("PASSWORD_EMPTY", "the password is empty"));
    }
    Ok(Secret::new(password))
}

fn prompt_twice(user: &str) -> Result<Secret, Failure> {
    let first = prompt(&format!("Password for {user}"))?;
    let second = prompt("The same again")?;
    if first != second {
        return Err(Failure::failed(
            "PASSWORD_MISMATCH",
            "the two passwords differ; no account was made",
        ));
    }
    Ok(first)
}

/// New accounts keep to the strict grammar; a whole id of this hub is as good as its localpart.
fn checked_localpart(given: &str, server_name: &ServerName) -> Result<String, Failure> {
    let wrong = |reason: String| Failure::failed("M_INVALID_USERNAME", reason);
    let id = UserId::parse_with_server_name(given, server_name)
        .map_err(|error| wrong(format!("{given:?}: {error}")))?;
    if id.server_name() != server_name {
        let theirs = id.server_name();
        return Err(wrong(format!(
            "{given} is of {theirs}, this hub is {server_name}"
        )));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
    if id.localpart().is_empty() || !id.localpart().chars().all(allowed) {
        return Err(wrong(format!(
            "{:?}: a localpart has only a-z, 0-9 and ._=-/+",
            id.localpart()
        )));
    }
    Ok(id.localpart().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(given: &str) -> Result<String, Failure> {
        checked_localpart(given, "hub.example".try_into().unwrap())
    }

    #[test]
    fn a_localpart_and_the_whole_id_of_this_hub_mean_the_same() {
        assert_eq!(checked("ana").unwrap(), "ana");
        assert_eq!(checked("@ana:hub.example").unwrap(), "ana");
    }

    #[test]
    fn what_no_new_account_may_be_called_is_refused() {
        for given in [
            "",
            "Ana",
            "a b",
            "ana:hub.example",
            "@ana:other.example",
            "é",
        ] {
            let failure = checked(given).unwrap_err().to_string();

            assert!(
                failure.starts_with("error[M_INVALID_USERNAME]"),
                "{failure}"
            );
        }
    }

    #[test]
    fn the_password_is_the_file_without_its_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "correct horse\n").unwrap();
        let name = "hub.example".try_into().unwrap();

        let made = request("ana", Some(file.path()), true, name).unwrap();

        let expected = Request::AddUser {
            localpart: "ana".to_owned(),
            password: Secret::new("correct horse"),
            admin: true,
        };
        assert_eq!(made, expected);
    }
}
