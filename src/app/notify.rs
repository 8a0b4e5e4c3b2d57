//! Telling systemd how it goes (`Type=notify`): datagrams to `$NOTIFY_SOCKET`.
//!
//! `Type=notify-reload` is not spoken: it asks for the monotonic clock's raw value, which std
//! does not give. Use `ExecReload=kill -HUP $MAINPID`.

use std::{
    ffi::OsString,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
};

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    socket: Option<OsString>,
}

impl Notify {
    /// The one that started this process.
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        Self { socket }
    }

    /// The hub serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The hub takes its configuration anew; [`Notify::ready`] ends this.
    pub fn reloading(&self) {
        self.send("RELOADING=1\nSTATUS=reloading");
    }

    /// The hub finishes what is under way.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// Nobody listening is no reason not to serve.
    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = send(socket, text)
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

fn send(socket: &OsString, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            SocketAddr::from_abstract_name(name)?
        }
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the hub up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_ready_and_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify {
            socket: Some(path.into()),
        };
        let mut buffer = [0; 128];

        notify.ready("serving hub.example");
        let n = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1\nSTATUS=serving hub.example");

        notify.stopping();
        let n = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..n].starts_with(b"STOPPING=1\n"));
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        Notify::default().ready("alone");
    }
}
