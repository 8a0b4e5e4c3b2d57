//! The writes that are done one at a time: accounts, devices, names, and the rare ones of rooms.

use ruma::{DeviceId, UserId};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteQueryResult};

use super::{
    bulk::Statement,
    commit::Stop,
    cross_signing, devices, links, outbox, outside,
    pending::Grown,
    remote,
    rows::{int, status_code},
    servers, thin,
};
use crate::{
    base::{Position, Seq},
    store::{Claimed, EventNid, Write},
    wire::chain,
};

/// Does one write. The gathered kinds never come here.
pub(super) async fn execute(
    conn: &mut SqliteConnection,
    position: Position,
    write: &Write,
    grown: &mut Grown,
) -> Result<(), Stop> {
    match write {
        Write::NewUser { user, .. } => {
            let done = run(conn, statement(write, position)).await?;
            grown.users += 1;
            conflict_unless(&done, || format!("{user} is already there"))
        }
        Write::NewRoom { .. } => {
            grown.rooms += 1;
            run(conn, statement(write, position)).await.map(drop)
        }
        Write::NewAlias { alias, .. } => {
            let done = run(conn, statement(write, position)).await?;
            conflict_unless(&done, || format!("{alias} is already there"))
        }
        Write::RemoveAlias { alias } => {
            let done = run(conn, statement(write, position)).await?;
            conflict_unless(&done, || format!("{alias} is not there"))
        }
        Write::Redact { event, .. } | Write::Grafted { event, .. } => {
            let done = run(conn, statement(write, position)).await?;
            must_exist(&done, *event)
        }
        Write::RemoveDevice { user, device } => remove_device(conn, user, device).await,
        Write::ForgetDeviceChanges { before } => devices::forget_changes(conn, *before).await,
        Write::ThinNames { .. } => thin::execute(conn, write).await,
        Write::PeerKeys { server, json } => servers::keep_keys(conn, position, server, json).await,
        Write::Parcel { to, edu, at } => outbox::keep_parcel(conn, (to, position), edu, *at).await,
        Write::Outbox(write) => outbox::execute(conn, write).await,
        Write::CrossSigning(write) => {
            let statement = Some(cross_signing::statement(write));
            run(conn, statement).await.map(drop)
        }
        link if links::is_ours(link) => links::execute(conn, position, link).await,
        remote if remote::is_ours(remote) => remote::execute(conn, remote).await,
        other => run(conn, statement(other, position)).await.map(drop),
    }
}

async fn run(
    conn: &mut SqliteConnection,
    statement: Option<Statement>,
) -> Result<SqliteQueryResult, Stop> {
    match statement {
        Some(statement) => Ok(statement.execute(conn).await?),
        None => Err(Stop::damaged("a write that is gathered was done alone")),
    }
}

fn conflict_unless(done: &SqliteQueryResult, what: impl FnOnce() -> String) -> Result<(), Stop> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Stop::Conflict(what()))
    }
}

fn must_exist(done: &SqliteQueryResult, event: EventNid) -> Result<(), Stop> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Stop::damaged(format!("there is no event {}", event.0)))
    }
}

/// Gives an event that was stored earlier its place in the log.
pub(super) async fn place_event(
    conn: &mut SqliteConnection,
    event: EventNid,
    seq: Seq,
) -> Result<(), Stop> {
    let done = sqlx::query("UPDATE events SET seq = ?2 WHERE nid = ?1 AND seq IS NULL")
        .bind(event.0)
        .bind(int(seq.0))
        .execute(conn)
        .await?;
    must_exist(&done, event)
}

/// A one-time key for good, or else the fallback key; that one in any case with `spare`.
pub(super) async fn claim(
    conn: &mut SqliteConnection,
    user: &UserId,
    device: &DeviceId,
    algorithm: &str,
    spare: bool,
) -> Result<Claimed, Stop> {
    const ONE_TIME: &str = "DELETE FROM one_time_keys WHERE (user, device, algorithm, key_id) IN (
            SELECT user, device, algorithm, key_id FROM one_time_keys
            WHERE user = ?1 AND device = ?2 AND algorithm = ?3 ORDER BY key_id LIMIT 1)
        RETURNING key_id, json";
    const FALLBACK: &str = "UPDATE fallback_keys SET used = 1
        WHERE user = ?1 AND device = ?2 AND algorithm = ?3 RETURNING key_id, json";
    let mut key = None;
    for sql in [ONE_TIME, FALLBACK].into_iter().skip(usize::from(spare)) {
        let row = sqlx::query(sql)
            .bind(user.as_str())
            .bind(device.as_str())
            .bind(algorithm)
            .fetch_optional(&mut *conn)
            .await?;
        if let Some(row) = row {
            key = Some((row.try_get(0)?, row.try_get(1)?));
            break;
        }
    }
    Ok(Claimed {
        user: user.to_owned(),
        device: device.to_owned(),
        key,
    })
}

async fn remove_device(
    conn: &mut SqliteConnection,
    user: &UserId,
    device: &DeviceId,
) -> Result<(), Stop> {
    links::remove(conn, user, device.as_str()).await?;
    for sql in [
        "DELETE FROM devices WHERE user = ?1 AND device = ?2",
        "DELETE FROM device_keys WHERE user = ?1 AND device = ?2",
        "DELETE FROM one_time_keys WHERE user = ?1 AND device = ?2",
        "DELETE FROM fallback_keys WHERE user = ?1 AND device = ?2",
        "DELETE FROM key_signatures WHERE target = ?1 AND item = ?2",
        "DELETE FROM key_signatures WHERE signer = ?1 AND key = 'ed25519:' || ?2",
        "DELETE FROM mail WHERE user = ?1 AND device = ?2",
        // A device that is made anew under this name is another device: its transaction ids
        // start over.
        "DELETE FROM txns WHERE user = ?1 AND device = ?2",
        "DELETE FROM thin_names WHERE user = ?1 AND device = ?2",
        "DELETE FROM thin_counters WHERE user = ?1 AND device = ?2",
    ] {
        sqlx::query(sql)
            .bind(user.as_str())
            .bind(device.as_str())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// The statement of a write that is one; nothing for those that are gathered or take several.
fn statement(write: &Write, position: Position) -> Option<Statement> {
    room_statement(write)
        .or_else(|| account_statement(write, position))
        .or_else(|| device_statement(write, position))
        .or_else(|| outside::statement(write, position))
}

fn room_statement(write: &Write) -> Option<Statement> {
    Some(match write {
        Write::NewRoom { nid, id, version } => {
            sqlx::query("INSERT INTO rooms VALUES (?, ?, ?, 0, ?, x'', 0, 0, 0, 0)")
                .bind(nid.0)
                .bind(id.as_str())
                .bind(version.as_str())
                .bind(chain::genesis(id.as_str()).0.to_vec())
        }
        Write::Place {
            room,
            anchor,
            depth,
            event,
        } => sqlx::query("INSERT INTO places (room, anchor, depth, event) VALUES (?, ?, ?, ?)")
            .bind(room.0)
            .bind(int(anchor.0))
            .bind(int(*depth))
            .bind(event.0),
        Write::Grafted {
            event,
            status,
            soft_failed,
            state_after,
        } => sqlx::query(
            "UPDATE events SET status = ?2, soft_failed = ?3, state_after = ?4 WHERE nid = ?1",
        )
        .bind(event.0)
        .bind(status_code(*status))
        .bind(*soft_failed)
        .bind(state_after.0),
        Write::Current { room, key, .. } => {
            sqlx::query("DELETE FROM current WHERE room = ? AND kind = ? AND key = ?")
                .bind(room.0)
                .bind(key.kind.as_str())
                .bind(key.key.as_str())
        }
        Write::Forget { user, room } => {
            sqlx::query("UPDATE memberships SET forgotten = 1 WHERE user = ? AND room = ?")
                .bind(user.as_str())
                .bind(room.0)
        }
        Write::Redact {
            event,
            because,
            json,
        } => sqlx::query("UPDATE events SET json = ?3, redacted_because = ?2 WHERE nid = ?1")
            .bind(event.0)
            .bind(because.0)
            .bind(json.as_str()),
        Write::ForgetTxns { before } => {
            sqlx::query("DELETE FROM txns WHERE at < ? AND endpoint <> 'thin'").bind(int(before.0))
        }
        Write::PolicyDecided { event, refused, at } => sqlx::query(
            "INSERT INTO policy_decisions (event, refused, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(event.0.to_vec())
        .bind(refused.clone())
        .bind(int(at.0)),
        Write::ForgetPolicyDecisions { before } => {
            sqlx::query("DELETE FROM policy_decisions WHERE at < ?").bind(int(before.0))
        }
        Write::NewAlias {
            alias,
            room,
            creator,
        } => sqlx::query(
            "INSERT INTO aliases (alias, room, creator) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(alias.as_str())
        .bind(room.0)
        .bind(creator.as_str()),
        Write::RemoveAlias { alias } => {
            sqlx::query("DELETE FROM aliases WHERE alias = ?").bind(alias.as_str())
        }
        Write::Listed { room, listed: true } => {
            sqlx::query("INSERT INTO directory (room) VALUES (?) ON CONFLICT DO NOTHING")
                .bind(room.0)
        }
        Write::Listed { room, .. } => {
            sqlx::query("DELETE FROM directory WHERE room = ?").bind(room.0)
        }
        Write::Media(media) => sqlx::query(
            "INSERT INTO media (id, user, hash, size, content_type, filename, created)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(media.id.as_str())
        .bind(media.user.as_str())
        .bind(media.hash.to_vec())
        .bind(int(media.size))
        .bind(media.content_type.as_deref())
        .bind(media.filename.as_deref())
        .bind(int(media.created.0)),
        _ => return None,
    })
}

fn account_statement(write: &Write, position: Position) -> Option<Statement> {
    Some(match write {
        Write::NewUser {
            user,
            password,
            admin,
            at,
        } => sqlx::query(
            "INSERT INTO users (user, password, admin, created) VALUES (?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(user.as_str())
        .bind(password.as_deref())
        .bind(*admin)
        .bind(int(at.0)),
        Write::Password { user, password } => {
            sqlx::query("UPDATE users SET password = ?2 WHERE user = ?1")
                .bind(user.as_str())
                .bind(password.as_str())
        }
        Write::Disabled { user, disabled } => {
            sqlx::query("UPDATE users SET disabled = ?2 WHERE user = ?1")
                .bind(user.as_str())
                .bind(*disabled)
        }
        Write::Profile {
            user,
            field,
            json: Some(json),
        } => sqlx::query(
            "INSERT INTO profiles (user, field, json) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET json = excluded.json",
        )
        .bind(user.as_str())
        .bind(field.as_str())
        .bind(json.as_str()),
        Write::Profile { user, field, .. } => {
            sqlx::query("DELETE FROM profiles WHERE user = ? AND field = ?")
                .bind(user.as_str())
                .bind(field.as_str())
        }
        Write::AccountData {
            user,
            room,
            kind,
            json,
        } => sqlx::query(
            "INSERT INTO account_data (user, room, kind, json, position) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET json = excluded.json, position = excluded.position",
        )
        .bind(user.as_str())
        .bind(room.as_ref().map_or("", |room| room.as_str()))
        .bind(kind.as_str())
        .bind(json.as_str())
        .bind(int(position.0)),
        Write::Filter { user, id, json } => sqlx::query(
            "INSERT INTO filters (user, id, json) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET json = excluded.json",
        )
        .bind(user.as_str())
        .bind(id.cast_signed())
        .bind(json.as_str()),
        _ => return None,
    })
}

fn device_statement(write: &Write, position: Position) -> Option<Statement> {
    Some(match write {
        Write::Session {
            user,
            device,
            token,
            name,
            at,
        } => sqlx::query(
            "INSERT INTO devices (user, device, token, name, created, seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (user, device) DO UPDATE
             SET token = excluded.token, name = coalesce(excluded.name, name),
                 seen = excluded.seen",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(token.to_vec())
        .bind(name.as_deref())
        .bind(int(at.0)),
        Write::DeviceName { user, device, name } => {
            sqlx::query("UPDATE devices SET name = ?3 WHERE user = ?1 AND device = ?2")
                .bind(user.as_str())
                .bind(device.as_str())
                .bind(name.as_deref())
        }
        Write::DeviceSeen {
            user,
            device,
            at,
            from,
        } => sqlx::query(
            "UPDATE devices SET seen = ?3, seen_at = ?4 WHERE user = ?1 AND device = ?2",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(int(at.0))
        .bind(from.as_deref()),
        Write::DeviceKeys { user, device, json } => sqlx::query(
            "INSERT INTO device_keys (user, device, json) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET json = excluded.json",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(json.as_str()),
        Write::OneTimeKey {
            user,
            device,
            key_id,
            json,
        } => sqlx::query(
            "INSERT INTO one_time_keys (user, device, algorithm, key_id, json)
             VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET json = excluded.json",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(algorithm_of(key_id))
        .bind(key_id.as_str())
        .bind(json.as_str()),
        Write::FallbackKey {
            user,
            device,
            key_id,
            json,
        } => sqlx::query(
            "INSERT INTO fallback_keys (user, device, algorithm, key_id, json, used)
             VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE
             SET key_id = excluded.key_id, json = excluded.json, used = 0",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(algorithm_of(key_id))
        .bind(key_id.as_str())
        .bind(json.as_str()),
        Write::DevicesChanged { user, what } => {
            let (what, about) = devices::change_code(what);
            sqlx::query(
                "INSERT INTO device_changes (position, user, what, about) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
            )
            .bind(int(position.0))
            .bind(user.as_str())
            .bind(what)
            .bind(about)
        }
        Write::MailRead { user, device, to } => {
            sqlx::query("DELETE FROM mail WHERE user = ? AND device = ? AND position <= ?")
                .bind(user.as_str())
                .bind(device.as_str())
                .bind(int(to.0))
        }
        _ => return None,
    })
}

/// What stands before the colon of a key id.
pub(super) fn algorithm_of(key_id: &str) -> &str {
    key_id
        .split_once(':')
        .map_or(key_id, |(algorithm, _)| algorithm)
}
