//! Linked devices: their keys, and their durable registrations.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, UserId};
use sqlx::SqliteConnection;

use super::{
    Sqlite,
    bulk::Statement,
    commit::Stop,
    damaged,
    rows::{Cells, all, int},
};
use crate::{
    api::{DeviceName, OscoreLink, Registration, Secret},
    base::Position,
    store::{
        LinkRecord, LinkedDevices, REGISTRATIONS_PER_CONTEXT_MAX, SessionRecord, StoreError, Write,
    },
    wire::thin::LinkProfile,
};

macro_rules! link_columns {
    () => {
        "l.user, l.device, l.recipient_id, l.sender_id, l.master_secret, l.master_salt, \
         l.id_context, l.reserved_below, l.counted, l.generation, l.psk_identity, l.psk, \
         l.edhoc_kid, l.edhoc_public_x, l.quic_spki, l.class, l.daily_kilobytes, l.wake_url"
    };
}

#[async_trait]
impl LinkedDevices for Sqlite {
    async fn link(&self, user: &UserId, device: &str) -> Result<Option<LinkRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            link_columns!(),
            " FROM links l WHERE l.user = ? AND l.device = ?"
        );
        self.one(sqlx::query(SQL).bind(user.as_str()).bind(device))
            .await
    }

    async fn link_by_recipient(
        &self,
        recipient_id: &[u8],
    ) -> Result<Option<LinkRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            link_columns!(),
            " FROM links l WHERE l.recipient_id = ?"
        );
        self.one(sqlx::query(SQL).bind(recipient_id.to_vec())).await
    }

    async fn link_by_kid(&self, kid: &[u8]) -> Result<Option<LinkRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            link_columns!(),
            " FROM links l WHERE l.edhoc_kid = ?"
        );
        self.one(sqlx::query(SQL).bind(kid.to_vec())).await
    }

    async fn links(
        &self,
        after: Option<&DeviceName>,
        limit: u32,
    ) -> Result<Vec<LinkRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            link_columns!(),
            " FROM links l WHERE (l.user, l.device) > (?, ?) ORDER BY l.user, l.device LIMIT ?"
        );
        let statement = sqlx::query(SQL)
            .bind(after.map_or("", |after| after.user.as_str()))
            .bind(after.map_or("", |after| after.device.as_str()))
            .bind(limit);
        all(&self.rows(statement).await?, |row| link(Cells::of(row)))
    }

    async fn linked_session(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT d.user, d.device, u.admin FROM devices d
             JOIN links l ON l.user = d.user AND l.device = d.device
             JOIN users u ON u.user = d.user
             WHERE d.user = ? AND d.device = ? AND NOT u.disabled",
        )
        .bind(user.as_str())
        .bind(device);
        let Some(row) = self.row(statement).await? else {
            return Ok(None);
        };
        let mut cells = Cells::of(&row);
        Ok(Some(SessionRecord {
            user: cells.text()?,
            device: OwnedDeviceId::from(cells.next::<&str>()?),
            admin: cells.next()?,
        }))
    }

    async fn registrations(&self) -> Result<Vec<Registration>, StoreError> {
        let statement = sqlx::query(
            "SELECT recipient_id, token, binding, request, address FROM registrations
             ORDER BY recipient_id, token",
        );
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(Registration {
                recipient_id: cells.next()?,
                token: cells.next()?,
                binding: cells.next()?,
                request: cells.next()?,
                address: {
                    let text: &str = cells.next()?;
                    text.parse()
                        .map_err(|_| damaged(format!("a registration's address is {text:?}")))?
                },
            })
        })
    }

    async fn restores(&self) -> Result<u64, StoreError> {
        let statement = sqlx::query("SELECT value FROM meta WHERE name = 'restores'");
        let Some(row) = self.row(statement).await? else {
            return Ok(0);
        };
        let text: &str = Cells::of(&row).next()?;
        text.parse()
            .map_err(|_| damaged(format!("the number of restores is noted as {text:?}")))
    }
}

impl Sqlite {
    async fn one(&self, statement: Statement) -> Result<Option<LinkRecord>, StoreError> {
        let row = self.row(statement).await?;
        row.map(|row| link(Cells::of(&row))).transpose()
    }
}

fn link(mut cells: Cells<'_>) -> Result<LinkRecord, StoreError> {
    let device = DeviceName {
        user: cells.text()?,
        device: OwnedDeviceId::from(cells.next::<&str>()?),
    };
    let recipient_id = cells.next()?;
    let sender_id = cells.next()?;
    let master_secret = Secret(cells.next()?);
    let master_salt = cells.next()?;
    let id_context = cells.next()?;
    let reserved_below = cells.number()?;
    let outer_observe_counted = cells.next()?;
    Ok(LinkRecord {
        oscore: OscoreLink {
            device: device.into(),
            master_secret,
            master_salt,
            id_context,
            recipient_id,
            sender_id,
            reserved_below,
            outer_observe_counted,
        },
        generation: cells.number()?,
        psk_identity: cells.next()?,
        psk: Secret(cells.next()?),
        edhoc_kid: cells.next()?,
        edhoc_public_x: {
            let x: Option<Vec<u8>> = cells.next()?;
            x.map(|x| {
                x.try_into()
                    .map_err(|x: Vec<u8>| damaged(format!("{} bytes for a key", x.len())))
            })
            .transpose()?
        },
        quic_spki: cells.next()?,
        profile: LinkProfile {
            class: cells.number()?,
            daily_kilobytes: cells.number()?,
        },
        wake_url: cells.next()?,
    })
}

/// Whether a write is one of ours.
pub(super) const fn is_ours(write: &Write) -> bool {
    matches!(
        write,
        Write::Link(_)
            | Write::Oscore { .. }
            | Write::Reserve { .. }
            | Write::Register(_)
            | Write::Deregister { .. }
            | Write::LinkProfile { .. }
            | Write::WakeUrl { .. }
    )
}

/// Does one of our writes.
pub(super) async fn execute(
    conn: &mut SqliteConnection,
    position: Position,
    write: &Write,
) -> Result<(), Stop> {
    match write {
        Write::Link(record) => {
            remove(
                conn,
                &record.oscore.device.user,
                record.oscore.device.device.as_str(),
            )
            .await?;
            must(conn, insert(record), || "a key is another device's").await
        }
        Write::Oscore { link, generation } => {
            forget_registrations(conn, &link.device.user, link.device.device.as_str()).await?;
            must(
                conn,
                replace(link, *generation),
                || "the recipient id is taken, or the device is not linked any more",
            )
            .await
        }
        Write::Reserve {
            recipient_id,
            below,
        } => {
            let statement = sqlx::query(
                "UPDATE links SET reserved_below = max(reserved_below, ?2) WHERE recipient_id = ?1",
            )
            .bind(recipient_id.clone())
            .bind(int(*below));
            must(conn, statement, || "there is no such context any more").await
        }
        Write::Register(registration) => register(conn, position, registration).await,
        Write::Deregister {
            recipient_id,
            token,
        } => {
            let statement =
                sqlx::query("DELETE FROM registrations WHERE recipient_id = ? AND token = ?")
                    .bind(recipient_id.clone())
                    .bind(token.clone());
            run(conn, statement).await.map(drop)
        }
        Write::LinkProfile { device, profile } => {
            let statement = sqlx::query(
                "UPDATE links SET class = ?3, daily_kilobytes = ?4 WHERE user = ?1 AND device = ?2",
            )
            .bind(device.user.as_str())
            .bind(device.device.as_str())
            .bind(i64::from(profile.class))
            .bind(int(profile.daily_kilobytes));
            run(conn, statement).await.map(drop)
        }
        Write::WakeUrl { device, url } => {
            let statement =
                sqlx::query("UPDATE links SET wake_url = ?3 WHERE user = ?1 AND device = ?2")
                    .bind(device.user.as_str())
                    .bind(device.device.as_str())
                    .bind(url.as_deref());
            run(conn, statement).await.map(drop)
        }
        _ => Err(Stop::damaged("a write of another kind came to the links")),
    }
}

/// A device's link with its registrations.
pub(super) async fn remove(
    conn: &mut SqliteConnection,
    user: &UserId,
    device: &str,
) -> Result<(), Stop> {
    forget_registrations(conn, user, device).await?;
    let statement = sqlx::query("DELETE FROM links WHERE user = ? AND device = ?")
        .bind(user.as_str())
        .bind(device);
    run(conn, statement).await.map(drop)
}

async fn forget_registrations(
    conn: &mut SqliteConnection,
    user: &UserId,
    device: &str,
) -> Result<(), Stop> {
    let statement = sqlx::query(
        "DELETE FROM registrations WHERE recipient_id =
             (SELECT recipient_id FROM links WHERE user = ? AND device = ?)",
    )
    .bind(user.as_str())
    .bind(device);
    run(conn, statement).await.map(drop)
}

async fn register(
    conn: &mut SqliteConnection,
    position: Position,
    registration: &Registration,
) -> Result<(), Stop> {
    let statement = sqlx::query(
        "INSERT INTO registrations (recipient_id, token, position, binding, request, address)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6 FROM links WHERE recipient_id = ?1
         ON CONFLICT DO UPDATE SET position = excluded.position, binding = excluded.binding,
             request = excluded.request, address = excluded.address",
    )
    .bind(registration.recipient_id.clone())
    .bind(registration.token.clone())
    .bind(int(position.0))
    .bind(registration.binding.clone())
    .bind(registration.request.clone())
    .bind(registration.address.to_string());
    must(conn, statement, || "there is no such context any more").await?;
    let oldest = sqlx::query(
        "DELETE FROM registrations WHERE (recipient_id, token) IN (
             SELECT recipient_id, token FROM registrations WHERE recipient_id = ?1
             ORDER BY position DESC, token DESC LIMIT -1 OFFSET ?2)",
    )
    .bind(registration.recipient_id.clone())
    .bind(i64::from(REGISTRATIONS_PER_CONTEXT_MAX));
    run(conn, oldest).await.map(drop)
}

fn insert(record: &LinkRecord) -> Statement {
    let oscore = &record.oscore;
    sqlx::query(
        "INSERT INTO links (user, device, recipient_id, sender_id, master_secret, master_salt,
             id_context, reserved_below, counted, generation, psk_identity, psk, edhoc_kid,
             edhoc_public_x, quic_spki, class, daily_kilobytes, wake_url)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(oscore.device.user.as_str())
    .bind(oscore.device.device.as_str())
    .bind(oscore.recipient_id.clone())
    .bind(oscore.sender_id.clone())
    .bind(oscore.master_secret.0.clone())
    .bind(oscore.master_salt.clone())
    .bind(oscore.id_context.clone())
    .bind(int(oscore.reserved_below))
    .bind(oscore.outer_observe_counted)
    .bind(int(record.generation))
    .bind(record.psk_identity.as_str())
    .bind(record.psk.0.clone())
    .bind(record.edhoc_kid.clone())
    .bind(record.edhoc_public_x.map(|x| x.to_vec()))
    .bind(record.quic_spki.clone())
    .bind(i64::from(record.profile.class))
    .bind(int(record.profile.daily_kilobytes))
    .bind(record.wake_url.as_deref())
}

fn replace(link: &OscoreLink, generation: u64) -> Statement {
    sqlx::query(
        "UPDATE OR IGNORE links SET recipient_id = ?3, sender_id = ?4, master_secret = ?5,
             master_salt = ?6, id_context = ?7, reserved_below = ?8, generation = ?9
         WHERE user = ?1 AND device = ?2",
    )
    .bind(link.device.user.as_str())
    .bind(link.device.device.as_str())
    .bind(link.recipient_id.clone())
    .bind(link.sender_id.clone())
    .bind(link.master_secret.0.clone())
    .bind(link.master_salt.clone())
    .bind(link.id_context.clone())
    .bind(int(link.reserved_below))
    .bind(int(generation))
}

async fn must(
    conn: &mut SqliteConnection,
    statement: Statement,
    why: impl FnOnce() -> &'static str,
) -> Result<(), Stop> {
    match run(conn, statement).await? {
        0 => Err(Stop::Conflict(why().to_owned())),
        _ => Ok(()),
    }
}

async fn run(conn: &mut SqliteConnection, statement: Statement) -> Result<u64, Stop> {
    Ok(statement.execute(conn).await?.rows_affected())
}
