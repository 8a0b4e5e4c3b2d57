//! `tramline user`: from the command line to the request that makes or changes an account.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use ruma::ServerName;

use super::{
    cli::UserVerb,
    failure::Failure,
    operator::Request,
    secrets::{self, Secret},
};

/// The request that a verb about an account makes; asks for a password if one is needed and no
/// file has it. None for the list, which is many requests.
pub fn request(verb: &UserVerb, server_name: &ServerName) -> Result<Option<Request>, Failure> {
    let localpart = |given: &str| checked_localpart(given, server_name);
    Ok(Some(match verb {
        UserVerb::List(_) | UserVerb::Devices(_) => return Ok(None),
        UserVerb::Add(args) => {
            let localpart = localpart(&args.localpart)?;
            Request::AddUser {
                password: new_password(args.password_file.as_deref(), &localpart, server_name)?,
                localpart,
                admin: args.admin,
            }
        }
        UserVerb::Password(args) => {
            let localpart = localpart(&args.localpart)?;
            Request::SetPassword {
                password: new_password(args.password_file.as_deref(), &localpart, server_name)?,
                localpart,
            }
        }
        UserVerb::Disable(args) => Request::DisableUser {
            localpart: localpart(&args.localpart)?,
        },
        UserVerb::Enable(args) => Request::EnableUser {
            localpart: localpart(&args.localpart)?,
        },
    }))
}

fn new_password(
    file: Option<&Path>,
    localpart: &str,
    server_name: &ServerName,
) -> Result<Secret, Failure> {
    match file {
        Some(path) => password_from(path),
        None => prompt_twice(&format!("@{localpart}:{server_name}")),
    }
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
            "the two passwords differ; nothing was changed",
        ));
    }
    Ok(first)
}

/// New accounts keep to the strict grammar; a whole id of this hub is as good as its localpart.
pub(super) fn checked_localpart(given: &str, server_name: &ServerName) -> Result<String, Failure> {
    let wrong = |reason: String| Err(Failure::failed("M_INVALID_USERNAME", reason));
    let localpart = match given.strip_prefix('@').and_then(|id| id.split_once(':')) {
        Some((_, theirs)) if theirs != server_name => {
            return wrong(format!(
                "{given:?} is of {theirs}, this hub is {server_name}"
            ));
        }
        Some((localpart, _)) => localpart,
        None => given,
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
    if localpart.is_empty() || !localpart.chars().all(allowed) {
        return wrong(format!(
            "{given:?} is no name for an account: write what stands between @ and : in the \
             user's id, of a-z, 0-9 and ._=-/+ only; such as ana for @ana:{server_name}"
        ));
    }
    Ok(localpart.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cli::{AddArgs, HubArgs};

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
        let add = UserVerb::Add(AddArgs {
            localpart: "ana".to_owned(),
            password_file: Some(file.path().to_owned()),
            admin: true,
            hub: HubArgs::default(),
        });

        let made = request(&add, name).unwrap();

        let expected = Request::AddUser {
            localpart: "ana".to_owned(),
            password: Secret::new("correct horse"),
            admin: true,
        };
        assert_eq!(made, Some(expected));
    }
}
