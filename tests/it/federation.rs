//! The hub among Matrix servers: a real Synapse, each under the name `localhost:PORT`, with an
//! authority of their own.

mod beside;
mod cross_signing;
mod everyone;
mod evil;
mod explained;
mod inbound;
mod killed;
mod megolm;
mod notary;
mod outbound;
mod outbox;
mod policy;
mod presence;
mod rest;
mod scripted;
mod thin;
mod three;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use libtest_mimic::{Failed, Trial};
use ruma::{OwnedServerName, signatures::Ed25519KeyPair};
use serde_json::{Value, json};
use tramline::{
    app::{clock::world, keys::SigningKey},
    client::{Call, Client, Target},
    edge::matrix::{Federation, outgoing::Ask},
    wire::{
        json,
        matrix::{PublicKey, ServerKey},
    },
};

use crate::{
    edge::edge,
    hub::{Hub, block_on},
    peers::{self, Need, Peer, Synapse},
    scripted::Scripted,
};

/// What is tried, under which name.
type Tried = (&'static str, fn() -> Result<(), Failed>);

const TRIALS: [Tried; 19] = [
    (
        "federation::a_synapse_and_the_hub_know_each_other",
        a_synapse_and_the_hub_know_each_other,
    ),
    (
        "federation::a_user_of_synapse_takes_part_in_rooms_of_the_hub",
        inbound::a_user_of_synapse_takes_part_in_rooms_of_the_hub,
    ),
    (
        "federation::a_user_of_the_hub_takes_part_in_rooms_of_synapse",
        outbound::a_user_of_the_hub_takes_part_in_rooms_of_synapse,
    ),
    (
        "federation::what_is_said_while_synapse_is_away_arrives_once_and_in_order",
        outbox::what_is_said_while_synapse_is_away_arrives_once_and_in_order,
    ),
    (
        "federation::encrypted_messages_and_files_cross_and_the_hub_keeps_ciphertext",
        megolm::encrypted_messages_and_files_cross_and_the_hub_keeps_ciphertext,
    ),
    (
        "federation::users_vouch_for_devices_and_each_other_across_servers",
        cross_signing::users_vouch_for_devices_and_each_other_across_servers,
    ),
    (
        "federation::receipts_and_typing_cross_both_ways",
        beside::receipts_and_typing_cross_both_ways,
    ),
    (
        "federation::who_is_there_is_told_both_ways_where_that_is_on_and_nowhere_else",
        presence::who_is_there_is_told_both_ways_where_that_is_on_and_nowhere_else,
    ),
    (
        "federation::three_servers_agree_after_everyone_spoke_at_once",
        three::three_servers_agree_after_everyone_spoke_at_once,
    ),
    (
        "federation::both_are_killed_and_nothing_is_lost",
        killed::both_are_killed_and_nothing_is_lost,
    ),
    (
        "federation::a_thin_client_chats_with_a_user_of_synapse",
        thin::a_thin_client_chats_with_a_user_of_synapse,
    ),
    (
        "federation::what_servers_ask_each_other_is_answered_both_ways",
        rest::what_servers_ask_each_other_is_answered_both_ways,
    ),
    (
        "federation::what_lies_in_a_gap_is_asked_for_by_either",
        rest::what_lies_in_a_gap_is_asked_for_by_either,
    ),
    (
        "federation::a_new_key_is_taken_and_what_the_old_one_signed_stays_believed",
        rest::a_new_key_is_taken_and_what_the_old_one_signed_stays_believed,
    ),
    (
        "federation::a_refusal_is_explained_and_a_reload_lets_the_server_in",
        explained::a_refusal_is_explained_and_a_reload_lets_the_server_in,
    ),
    (
        "federation::a_scripted_server_and_the_hub_are_in_each_others_rooms",
        scripted::a_scripted_server_and_the_hub_are_in_each_others_rooms,
    ),
    (
        "federation::synapse_asks_the_hub_where_a_room_names_it_its_policy_server",
        policy::synapse_asks_the_hub_where_a_room_names_it,
    ),
    (
        "federation::the_hub_asks_another_where_a_room_names_that_its_policy_server",
        policy::the_hub_asks_another_where_a_room_names_that,
    ),
    (
        "federation::what_a_server_said_that_is_gone_is_believed_by_a_notary",
        notary::what_a_server_said_that_is_gone_is_believed_by_a_notary,
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let all = TRIALS.into_iter();
    let all = all.map(|(name, test)| peers::trial(name, Need::Required, &[Peer::Python], test));
    all.chain(evil::trials()).collect()
}

/// One Synapse or several, and what the hub needs to be believed by them.
struct Peers {
    synapse: Synapse,
    _folder: tempfile::TempDir,
}

impl Peers {
    fn start() -> Result<Self, Failed> {
        Self::of(1)
    }

    fn of(count: usize) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let args = ["--users", "alice", "--cert", "localhost"];
        let synapse = Synapse::start(&folder.path().join("run"), count, &args)?;
        Ok(Self {
            synapse,
            _folder: folder,
        })
    }

    fn server(&self) -> &Value {
        self.nth(0)
    }

    fn nth(&self, index: usize) -> &Value {
        &self.synapse.about["servers"][index]
    }

    fn name(&self) -> Result<OwnedServerName, Failed> {
        Ok(text(&self.server()["server_name"])?.try_into()?)
    }

    /// The authority that everyone here trusts.
    fn ca(&self) -> Result<PathBuf, Failed> {
        Ok(text(&self.synapse.about["ca_cert"])?.into())
    }

    /// What a hub needs to be one of these servers.
    fn options(&self) -> Result<Vec<String>, Failed> {
        options(&self.synapse.about)
    }

    /// The Synapse's user, signed in there.
    async fn alice(&self) -> Result<Client, Failed> {
        let server = self.server();
        let target = Target::parse(text(&server["https_url"])?, Some(&self.pem()?))?;
        let token = text(&server["users"][0]["access_token"])?;
        Ok(Client::resume(&target, token, &world()).await?)
    }

    fn pem(&self) -> Result<String, Failed> {
        Ok(fs::read_to_string(self.ca()?)?)
    }

    /// The edge of a hub of this name and key, in this process.
    fn edge(&self, key: ServerKey) -> Result<Arc<Federation>, Failed> {
        Ok(edge(key, self.ca()?.as_ref())?)
    }
}

/// A hub and scripted homeservers, under an authority of their own.
struct Together {
    hub: Hub,
    scripted: Scripted,
    ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Together {
    /// So many servers of this program of `tests/peers`, and a hub with Ana.
    fn start(program: &str, count: usize) -> Result<Self, Failed> {
        Self::start_with(program, count, &[])
    }

    /// The same with further options of the hub.
    fn start_with(program: &str, count: usize, more: &[&str]) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let about = Scripted::certificates(&folder.path().join("run"))?;
        let mut options = options(&about)?;
        options.extend(more.iter().map(ToString::to_string));
        Ok(Self {
            hub: Hub::federating(&["ana"], &options)?,
            scripted: Scripted::start(program, &about, count)?,
            ca: text(&about["ca_cert"])?.into(),
            _folder: folder,
        })
    }

    /// A user of the hub, signed in.
    async fn client(&self, user: &str) -> Result<Client, Failed> {
        let pem = fs::read_to_string(&self.ca)?;
        let target = Target::parse(&self.hub.https(), Some(&pem))?;
        let mut client = Client::open(&target, &world()).await?;
        client.login(user, &format!("secret-{user}"), None).await?;
        Ok(client)
    }
}

/// What a hub needs to be one of the servers that `start_synapse.py` made certificates for.
fn options(about: &Value) -> Result<Vec<String>, Failed> {
    let shown = &about["certs"]["localhost"];
    Ok(vec![
        "federation.enabled=true".to_owned(),
        "federation.allow_private_addresses=true".to_owned(),
        format!("federation.ca_file={}", text(&about["ca_cert"])?),
        format!("https.cert_file={}", text(&shown["cert"])?),
        format!("https.key_file={}", text(&shown["key"])?),
    ])
}

/// The key that the hub signs with.
fn key_of(hub: &Hub) -> Result<ServerKey, Failed> {
    let file = hub.path().join("keys/signing.pem");
    let key = SigningKey::read(Path::new(&file)).map_err(|failure| failure.to_string())?;
    Ok(ServerKey::new(hub.name().try_into()?, key.pair))
}

fn text(value: &Value) -> Result<&str, Failed> {
    value
        .as_str()
        .ok_or_else(|| format!("{value} is no text").into())
}

fn a_synapse_and_the_hub_know_each_other() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    block_on(async {
        the_notary_vouches_for_the_hub(&peers, &hub).await?;
        each_asks_for_a_profile(&peers, &hub).await?;
        a_key_that_is_not_published_is_refused(&peers, &hub).await
    })
}

/// Synapse fetches the hub's keys, finds them good, and signs them beside the hub. (Asked for a server
/// without naming a key, it tells what it has, as the hub does.)
async fn the_notary_vouches_for_the_hub(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let key = key_of(hub)?;
    let (id, public) = (key.key_id(), PublicKey(key.public()));
    let edge = peers.edge(key)?;
    let wanted = json!({"server_keys": {hub.name(): {id.as_str(): {"minimum_valid_until_ts": 0}}}});
    let wanted = serde_json::from_value(wanted)?;
    let ask = Ask::post("/_matrix/key/v2/query", &wanted).unsigned();
    let told = edge.outgoing.ask(&peers.name()?, &ask).await?;
    let answer = json::read_lax(&told.body)?;
    let keys = &answer["server_keys"][0];
    assert_eq!(keys["server_name"], hub.name(), "{answer}");
    assert_eq!(keys["verify_keys"][id.as_str()]["key"], public.base64());
    assert!(keys["signatures"][peers.name()?.as_str()].is_object());
    Ok(())
}

/// Both ways a signed request is answered: so each has fetched the other's key and believed it.
async fn each_asks_for_a_profile(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let ana = format!("@ana:{}", hub.name());
    let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
    let mut client = Client::open(&target, &world()).await?;
    client.login("ana", "secret-ana", None).await?;
    let named = json!({"displayname": "Ana"});
    let path = ["profile", &ana, "displayname"];
    client.call("profile", Call::put(&path, named)).await?;

    let path = ["profile", ana.as_str()];
    let mut alice = peers.alice().await?;
    let shown = alice.call("profile", Call::get(&path, vec![])).await?;
    assert_eq!(shown["displayname"], "Ana");

    let edge = peers.edge(key_of(hub)?)?;
    let server = peers.name()?;
    let alice = format!("%40alice%3A{}", server.as_str().replace(':', "%3A"));
    let uri = format!("/_matrix/federation/v1/query/profile?user_id={alice}");
    let told = edge.outgoing.ask(&server, &Ask::get(uri)).await?;
    assert_eq!(told.object()?.len(), 1, "{:?}", told.body); // her name: alice
    let verify_keys = peers.server()["verify_keys"].as_object();
    for (id, public) in verify_keys.ok_or("Synapse has no keys")? {
        let key = edge.keys.for_request(&server, &id.parse()?).await?;
        assert_eq!(key.base64(), text(public)?);
    }
    Ok(())
}

async fn a_key_that_is_not_published_is_refused(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let name = hub.name().try_into()?;
    let key = ServerKey::from_der(name, &Ed25519KeyPair::generate(), "unpublished")?;
    let edge = peers.edge(key)?;
    let uri = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Alocalhost";
    let told = edge.outgoing.ask(&peers.name()?, &Ask::get(uri)).await?;
    assert_eq!(told.status, 401, "{:?}", told.body);
    Ok(())
}
