//! Drafts, and the small bodies that a device sends besides them.

use super::{
    Body, Draft, Hello, LinkProfile, ThinError, ThinFault,
    body::{BIT_5, BIT_6, BIT_7, HAS_TARGET, KIND_MASK},
    number,
    number::Reader,
};

const HAS_READ: u8 = BIT_5;

impl Draft {
    /// spec: thin-profile §5
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.body.len());
        let target = if self.target.is_some() { HAS_TARGET } else { 0 };
        let read = if self.read.is_some() { HAS_READ } else { 0 };
        out.push(self.body.kind() | target | read);
        number::write(&mut out, self.counter);
        for field in [self.target, self.read].into_iter().flatten() {
            number::write(&mut out, field);
        }
        self.body.write(&mut out);
        out
    }

    /// spec: thin-profile §5
    pub fn decode(bytes: &[u8]) -> Result<Self, ThinError> {
        let mut reader = Reader::new(bytes);
        let head = reader.byte()?;
        if head & (BIT_6 | BIT_7) != 0 {
            return Err(reader.fault(ThinFault::Reserved));
        }
        let kind = head & KIND_MASK;
        let counter = reader.number()?;
        let mut field = |bit: u8| (head & bit != 0).then(|| reader.number()).transpose();
        let target = field(HAS_TARGET)?;
        let read = field(HAS_READ)?;
        let body = Body::read(kind, &mut reader)?;
        if !body.is_for_drafts() {
            return Err(reader.fault(ThinFault::Kind { kind }));
        }
        if body.needs_target() && target.is_none() {
            return Err(reader.fault(ThinFault::NoTarget));
        }
        Ok(Self {
            counter,
            target,
            read,
            body,
        })
    }
}

impl LinkProfile {
    /// spec: thin-profile §11
    pub fn encode(self) -> Vec<u8> {
        let mut out = vec![self.class];
        if self.daily_kilobytes > 0 {
            number::write(&mut out, self.daily_kilobytes);
        }
        out
    }

    /// spec: thin-profile §11
    pub fn decode(bytes: &[u8]) -> Result<Self, ThinError> {
        let mut reader = Reader::new(bytes);
        let class = reader.byte()?;
        if class > 6 {
            return Err(reader.fault(ThinFault::LinkClass));
        }
        let daily_kilobytes = if reader.is_empty() {
            0
        } else {
            reader.number()?
        };
        reader.finish()?;
        Ok(Self {
            class,
            daily_kilobytes,
        })
    }
}

impl Hello {
    /// spec: thin-profile §4
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        number::write(&mut out, self.version);
        out.extend_from_slice(&self.generation);
        number::write(&mut out, self.dictionary);
        number::write(&mut out, self.time_ms);
        out
    }

    /// What later versions append is not looked at.
    ///
    /// spec: thin-profile §4
    pub fn decode(bytes: &[u8]) -> Result<Self, ThinError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            version: reader.number()?,
            generation: reader.array()?,
            dictionary: reader.number()?,
            time_ms: reader.number()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_examples_are_true() {
        let draft = Draft {
            counter: 300,
            target: None,
            read: None,
            body: Body::Text("Meet me at the station".to_owned()),
        };
        let hello = Hello {
            version: 1,
            generation: [0, 1, 2, 3, 4, 5, 6, 7],
            dictionary: 1,
            time_ms: 1_700_000_000_000,
        };

        assert_eq!(
            hex::encode(draft.encode()),
            "00ac024d656574206d65206174207468652073746174696f6e"
        );
        assert_eq!(
            hex::encode(hello.encode()),
            "010001020304050607018".to_owned() + "0d095ffbc31"
        );
        assert_eq!(Draft::decode(&draft.encode()), Ok(draft));
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }

    #[test]
    fn what_only_the_hub_may_say_is_no_draft() {
        for bytes in [
            &[0x0b, 1, 0, 0][..],
            &[0x0c, 1, 5, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x0d, 1],
            &[0x0f, 1],
        ] {
            let refused = Draft::decode(bytes).unwrap_err();
            assert!(matches!(refused.fault, ThinFault::Kind { .. }), "{refused}");
        }
    }

    #[test]
    fn a_reaction_to_nothing_and_a_reserved_bit_are_refused() {
        assert_eq!(
            Draft::decode(&[3, 1, b'+']).unwrap_err().fault,
            ThinFault::NoTarget
        );
        assert_eq!(
            Draft::decode(&[0x40, 1]).unwrap_err().fault,
            ThinFault::Reserved
        );
    }
}
