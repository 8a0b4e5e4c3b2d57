//! Cross-signing keys and the signatures made with them.

use async_trait::async_trait;
use ruma::UserId;

use super::{
    Sqlite,
    bulk::Statement,
    rows::{Cells, all},
};
use crate::store::{
    CrossSigning, CrossSigningKeys, CrossSigningWrite, KeySignature, StoreError, Usage,
};

#[async_trait]
impl CrossSigning for Sqlite {
    async fn cross_signing_keys(&self, user: &UserId) -> Result<CrossSigningKeys, StoreError> {
        let statement = sqlx::query("SELECT usage, json FROM cross_signing_keys WHERE user = ?")
            .bind(user.as_str());
        let mut keys = CrossSigningKeys::default();
        for row in &self.rows(statement).await? {
            let mut cells = Cells::of(row);
            let code: i64 = cells.next()?;
            let usage = ALL.into_iter().find(|usage| usage_code(*usage) == code);
            if let Some(usage) = usage {
                *keys.of(usage) = Some(cells.next()?);
            }
        }
        Ok(keys)
    }

    async fn key_signatures(
        &self,
        of: &UserId,
        viewer: &UserId,
    ) -> Result<Vec<KeySignature>, StoreError> {
        let statement = sqlx::query(
            "SELECT item, signer, key, signature FROM key_signatures
             WHERE target = ?1 AND signer IN (?1, ?2) ORDER BY item, signer, key",
        )
        .bind(of.as_str())
        .bind(viewer.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(KeySignature {
                item: cells.next()?,
                signer: cells.text()?,
                key: cells.next()?,
                signature: cells.next()?,
            })
        })
    }

    async fn signatures_made(&self, signer: &UserId) -> Result<u64, StoreError> {
        let statement = sqlx::query("SELECT count(*) FROM key_signatures WHERE signer = ?")
            .bind(signer.as_str());
        let row = self.row(statement).await?;
        row.map_or(Ok(0), |row| Cells::of(&row).number())
    }
}

const ALL: [Usage; 3] = [Usage::Master, Usage::SelfSigning, Usage::UserSigning];

const fn usage_code(usage: Usage) -> i64 {
    match usage {
        Usage::Master => 0,
        Usage::SelfSigning => 1,
        Usage::UserSigning => 2,
    }
}

/// The statement of one of this file's writes.
pub(super) fn statement(write: &CrossSigningWrite) -> Statement {
    match write {
        CrossSigningWrite::Key {
            user,
            usage,
            json: Some(json),
        } => sqlx::query(
            "INSERT INTO cross_signing_keys (user, usage, json) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET json = excluded.json",
        )
        .bind(user.as_str())
        .bind(usage_code(*usage))
        .bind(json.as_str()),
        CrossSigningWrite::Key { user, usage, .. } => {
            sqlx::query("DELETE FROM cross_signing_keys WHERE user = ? AND usage = ?")
                .bind(user.as_str())
                .bind(usage_code(*usage))
        }
        CrossSigningWrite::Signature { of, signature } => sqlx::query(
            "INSERT INTO key_signatures (target, item, signer, key, signature)
             VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET signature = excluded.signature",
        )
        .bind(of.as_str())
        .bind(signature.item.as_str())
        .bind(signature.signer.as_str())
        .bind(signature.key.as_str())
        .bind(signature.signature.as_str()),
        CrossSigningWrite::ForgetSignaturesOn { user, item } => {
            sqlx::query("DELETE FROM key_signatures WHERE target = ? AND item = ?")
                .bind(user.as_str())
                .bind(item.as_str())
        }
        CrossSigningWrite::ForgetSignaturesBy { signer, key } => {
            sqlx::query("DELETE FROM key_signatures WHERE signer = ? AND key = ?")
                .bind(signer.as_str())
                .bind(key.as_str())
        }
    }
}
