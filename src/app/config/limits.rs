//! `[limits]`: the ceilings an operator may move. Those of the protocols are in `base::limits`.

use super::{
    key::section,
    value::{Count, Rate, Size, Span},
};

section! {
    /// Ceilings. Rates are "10/s burst 50" (also /m, /h) or "off".
    "limits." Limits {
        /// The largest file a client may upload.
        media_size: Size = "50MiB", Live;
        /// How much one account may have uploaded in all.
        media_quota: Size = "1GiB", Live;
        /// Attempts to sign in, from one address.
        login_per_address: Rate = "20/m burst 40", Live;
        /// Attempts to sign in, to one account.
        login_per_account: Rate = "6/m burst 12", Live;
        /// Attempts to register, from one address.
        register_per_address: Rate = "6/m burst 12", Live;
        /// Messages and other events sent by one account.
        messages_per_account: Rate = "20/s burst 200", Live;
        /// Requests of any other kind by one account.
        requests_per_account: Rate = "50/s burst 500", Live;
        /// Connections over HTTPS at the same time.
        connections: Count<1, 1_000_000> = "4096", Restart;
        /// Of those, from one address.
        connections_per_address: Count<1, 1_000_000> = "512", Restart;
        /// Passwords checked at the same time; each takes about 20 MiB while it lasts.
        password_checks: Count<1, 64> = "2", Restart;
        /// Tasks among which the rooms are shared out.
        shards: Count<1, 256> = "8", Restart;
        /// How long a hub that is told to stop waits for requests under way.
        drain: Span = "10s", Live;
    }
}
