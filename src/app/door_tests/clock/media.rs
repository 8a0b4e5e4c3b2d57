//! A megabyte to download, by block-wise over OSCORE and over QUIC.

use std::time::Duration;

use super::{
    device::{self, FOR_EVER, SEED},
    quic,
};
use crate::{
    client::thin::Ask,
    session::{
        coap::{Request, Response},
        lab::{Direction, Micros, Node, Ppm, Profile, Step, World, chance::Chance, profiles},
    },
    wire::coap::Code,
};

const FILE_BYTES: usize = 1_000_000;

/// Bytes that nothing can compress.
fn file() -> Vec<u8> {
    let mut chance = Chance::new(SEED, 9);
    let words = std::iter::repeat_with(|| chance.throw().to_be_bytes());
    words.flatten().take(FILE_BYTES).collect()
}

fn download(path: &[String; 3]) -> Request {
    Request::new(Code::GET, &path.each_ref().map(String::as_str))
}

/// What a download came to; bytes with IP and UDP headers.
#[derive(Debug)]
struct Cost {
    up: u64,
    down: u64,
    datagrams: u64,
    took: Duration,
}

/// Steps until the file is there, and looks at it.
fn fetched<C: Node, H: Node>(
    mut lab: World<C, H>,
    file_of: impl Fn(&mut C) -> Option<Response>,
) -> Cost {
    let got = loop {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
        if let Some(got) = file_of(lab.client(0).unwrap()) {
            break got;
        }
    };
    assert_eq!(got.code, Code::CONTENT);
    assert!(got.payload == file(), "{} bytes", got.payload.len());
    let offered = |way| lab.link().stats(way).offered;
    let (up, down) = (offered(Direction::Up), offered(Direction::Down));
    Cost {
        up: up.bytes_with_headers,
        down: down.bytes_with_headers,
        datagrams: up.datagrams + down.datagrams,
        took: lab.elapsed().since(Micros::ZERO),
    }
}

fn by_blocks(profile: Profile) -> Cost {
    let mut lab = device::lab(profile, 6);
    let path = lab.hub().place.keeps(file());
    device::device(&mut lab).ask(Ask::Other(download(&path)));
    fetched(lab, |device| device.file.take())
}

fn over_quic(profile: Profile) -> Cost {
    let lab = quic::lab(profile, |place| download(&place.keeps(file())));
    fetched(lab, |client| client.answer.take())
}

fn lte(loss: u32) -> Profile {
    let lte = profiles::find("lte").unwrap().profile;
    let loss = Ppm::percent(loss);
    Profile { loss, ..lte }
}

#[test]
fn a_megabyte_comes_by_blocks_and_over_quic_within_its_bytes_and_its_time() {
    let file_bytes = u64::try_from(FILE_BYTES).unwrap();
    for (loss, blocks_s, quic_s) in [(1, 240, 12), (5, 600, 60)] {
        let blocks = by_blocks(lte(loss));
        let quic = over_quic(lte(loss));

        for (how, cost) in [("by blocks", &blocks), ("over QUIC", &quic)] {
            let (up, down, datagrams) = (cost.up, cost.down, cost.datagrams);
            println!(
                "1 MB on LTE, {loss} % lost, {how}: {up} bytes up and {down} down in {datagrams} \
                 datagrams, {:?}",
                cost.took
            );
        }
        assert!(blocks.took < Duration::from_secs(blocks_s), "{blocks:?}");
        assert!(quic.took < Duration::from_secs(quic_s), "{quic:?}");
        // One request a block, the path in each; an eighth of the file is lost and sent again at most.
        assert!(blocks.up < file_bytes / 7, "{blocks:?}");
        assert!(blocks.down < file_bytes * 5 / 4, "{blocks:?}");
        assert!(quic.up < file_bytes / 20, "{quic:?}");
        assert!(quic.down < file_bytes * 5 / 4, "{quic:?}");
        assert!(quic.up + quic.down < blocks.up + blocks.down);
    }
}
