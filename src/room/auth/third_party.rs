//! Rule 4.4.1 / 5.4.1: an invite that an identity server vouches for.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
    third_party_invite::IdentityServerBase64PublicKey,
};

use super::{At, Auth, Clause};
use crate::room::Membership;

/// How many pairs of a signature and a key are tried.
///
/// An invite carries one or two of each. An event of 64 KiB could name hundreds of both, and every
/// pair costs a verification, about 60 µs.
const PAIRS_MAX: usize = 64;

/// The algorithm there is.
const ED25519: &str = "ed25519:";

/// spec: matrix-v12 §Authorization-rules
pub(super) fn check(
    auth: &Auth<'_>,
    target: &str,
    invite: &CanonicalJsonValue,
) -> Result<(), Clause> {
    // 4.4.1.1 / 5.4.1.1. The target must not be banned.
    if auth.membership(target) == Membership::Ban {
        return Err(auth.refuse(At("4.4.1.1", "5.4.1.1"), format!("{target} is banned")));
    }
    // 4.4.1.2 / 5.4.1.2. There must be a `signed`.
    let signed = invite.as_object().and_then(|invite| invite.get("signed"));
    let Some(signed) = signed.and_then(CanonicalJsonValue::as_object) else {
        return Err(auth.refuse(
            At("4.4.1.2", "5.4.1.2"),
            "`third_party_invite.signed` is missing",
        ));
    };
    // 4.4.1.3 / 5.4.1.3. It must have `mxid` and `token`.
    let text = |name: &str| signed.get(name).and_then(CanonicalJsonValue::as_str);
    let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
        return Err(auth.refuse(
            At("4.4.1.3", "5.4.1.3"),
            "`mxid` or `token` of `third_party_invite.signed` is missing",
        ));
    };
    // 4.4.1.4 / 5.4.1.4. `mxid` must be the target.
    if mxid != target {
        return Err(auth.refuse(
            At("4.4.1.4", "5.4.1.4"),
            format!("`mxid` is {mxid}, the state key is {target}"),
        ));
    }
    // 4.4.1.5 / 5.4.1.5. The token must be one the room knows.
    let Some(known) = (auth.state)("m.room.third_party_invite", token) else {
        return Err(auth.refuse(
            At("4.4.1.5", "5.4.1.5"),
            format!("no third-party invite of this room has the token {token:?}"),
        ));
    };
    // 4.4.1.6 / 5.4.1.6. Both must have one sender.
    let (theirs, ours) = (&known.fields().sender, &auth.fields.sender);
    if theirs != ours {
        return Err(auth.refuse(
            At("4.4.1.6", "5.4.1.6"),
            format!("the third-party invite is {theirs}'s, the sender is {ours}"),
        ));
    }
    // 4.4.1.7 / 5.4.1.7. Any signature that matches any of its keys.
    if any_signature_matches(signed, &public_keys(&known.fields().content)) {
        return Ok(());
    }
    // 4.4.1.8 / 5.4.1.8. Otherwise, reject.
    Err(auth.refuse(
        At("4.4.1.8", "5.4.1.8"),
        "no signature of `third_party_invite.signed` matches a key of the third-party invite",
    ))
}

fn public_keys(content: &CanonicalJsonObject) -> Vec<Vec<u8>> {
    let one = content.get("public_key");
    let many = content
        .get("public_keys")
        .and_then(CanonicalJsonValue::as_array)
        .unwrap_or_default();
    one.into_iter()
        .chain(
            many.iter()
                .filter_map(|key| key.as_object()?.get("public_key")),
        )
        .filter_map(|key| {
            IdentityServerBase64PublicKey(key.as_str()?.to_owned())
                .decode()
                .ok()
        })
        .collect()
}

fn any_signature_matches(signed: &CanonicalJsonObject, keys: &[Vec<u8>]) -> bool {
    let Ok(text) = to_canonical_json_string_for_signing(signed) else {
        return false;
    };
    let entities = signed
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object);
    entities
        .into_iter()
        .flat_map(CanonicalJsonObject::values)
        .filter_map(CanonicalJsonValue::as_object)
        .flatten()
        .filter(|(key_id, _)| key_id.starts_with(ED25519))
        .filter_map(|(_, signature)| Base64::<Standard>::parse(signature.as_str()?).ok())
        .flat_map(|signature| keys.iter().map(move |key| (signature.clone(), key)))
        .take(PAIRS_MAX)
        .any(|(signature, key)| {
            verify_canonical_json_bytes(
                &ruma::SigningKeyAlgorithm::Ed25519,
                key,
                signature.as_bytes(),
                text.as_bytes(),
            )
            .is_ok()
        })
}
