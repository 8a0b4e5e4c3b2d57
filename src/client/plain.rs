//! What went wrong on the way or with a file, in words for a person: never those of the system or of a library.

use std::{
    error::Error,
    io::{self, ErrorKind},
};

use rustls::{CertificateError, InvalidMessage};

/// What an error of the system says.
pub fn io(error: &io::Error) -> String {
    let words = match error.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there (connection refused)",
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => "the connection broke off",
        ErrorKind::TimedOut => "no answer came in time",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "there is no way there",
        ErrorKind::NetworkDown => "there is no network",
        ErrorKind::NotFound => "there is no such file or directory",
        ErrorKind::PermissionDenied => "this is not permitted",
        ErrorKind::AlreadyExists => "it is there already",
        ErrorKind::IsADirectory => "it is a directory",
        ErrorKind::NotADirectory => "a part of its path is no directory",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "there is no space left for it",
        ErrorKind::ReadOnlyFilesystem => "its disk is read-only",
        _ => {
            return error
                .get_ref()
                .map_or_else(|| without_number(&error.to_string()), |inner| words(inner));
        }
    };
    words.to_owned()
}

/// What any error says that a connection may end with.
pub fn words(error: &(dyn Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref() {
        return io(error);
    }
    if let Some(error) = error.downcast_ref() {
        return tls(error);
    }
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse() => "what answers there does not speak HTTP".to_owned(),
        Some(error) => error
            .source()
            .map_or_else(|| "the connection broke off".to_owned(), words),
        None => without_number(&error.to_string()),
    }
}

/// Whether TLS ended because nobody trusted vouches for the certificate, in whatever that is wrapped.
pub fn is_unvouched(error: &(dyn Error + 'static)) -> bool {
    use CertificateError::{BadSignature, UnknownIssuer};
    if let Some(tls) = error.downcast_ref() {
        let of_it = [UnknownIssuer, BadSignature].map(rustls::Error::InvalidCertificate);
        return of_it.contains(tls);
    }
    match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().is_some_and(|inner| is_unvouched(inner)),
        None => error.source().is_some_and(is_unvouched),
    }
}

fn tls(error: &rustls::Error) -> String {
    use CertificateError as Of;
    let words = match error {
        rustls::Error::InvalidCertificate(Of::UnknownIssuer | Of::BadSignature) => {
            "nobody who is trusted here vouches for its certificate"
        }
        rustls::Error::InvalidCertificate(
            Of::NotValidForName | Of::NotValidForNameContext { .. },
        ) => "its certificate is for another name: use the name that it is for",
        rustls::Error::InvalidCertificate(Of::Expired | Of::ExpiredContext { .. }) => {
            "its certificate has expired (or the clock here is wrong)"
        }
        rustls::Error::InvalidCertificate(Of::NotValidYet | Of::NotValidYetContext { .. }) => {
            "its certificate is not valid yet (or the clock here is wrong)"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate cannot be used",
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this port does not speak TLS: take the one of the hub's `https.listen`"
        }
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS as it should",
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
            "it does not agree on how to speak TLS"
        }
        rustls::Error::General(own) => own,
        _ => "TLS failed",
    };
    words.to_owned()
}

/// A text of the system's without its number, and names that are none.
fn without_number(text: &str) -> String {
    if text.starts_with("failed to lookup address") {
        return "the name has no address".to_owned();
    }
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: rustls::Error) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, error)
    }

    #[test]
    fn errors_are_told_without_numbers_and_words_of_libraries() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(io(&refused), "nobody listens there (connection refused)");
        for number in 1..=133 {
            let said = words(&io::Error::from_raw_os_error(number));
            assert!(!said.contains("os error"), "{said}");
        }
        let unknown = wrapped(CertificateError::UnknownIssuer.into());
        assert!(is_unvouched(&unknown));
        assert_eq!(
            words(&unknown),
            "nobody who is trusted here vouches for its certificate"
        );
        let plain = wrapped(InvalidMessage::InvalidContentType.into());
        assert!(!is_unvouched(&plain));
        assert!(words(&plain).starts_with("this port does not speak TLS"));
    }
}
