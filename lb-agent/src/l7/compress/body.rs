//! The body of an answer while it is compressed on its way.

use std::io;

use super::encoder::Encoder;
use crate::config::http::Algorithm;

/// A body on its way. Nothing is held back for longer than its source has nothing more to give.
pub struct Coded {
    encoder: Encoder,
    /// Whether the encoder holds something back.
    holds: bool,
}

impl Coded {
    /// A body in this coding.
    pub fn new(algorithm: Algorithm) -> io::Result<Self> {
        Ok(Self {
            encoder: Encoder::new(algorithm)?,
            holds: false,
        })
    }

    /// Takes `input`; what comes out of it by now is added to `out`.
    pub fn write(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.holds = true;
        self.encoder.write(input, out)
    }

    /// The source has nothing more for the moment: adds to `out` all that was held back, if anything.
    pub fn idle(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::take(&mut self.holds) {
            self.encoder.flush(out)?;
        }
        Ok(())
    }

    /// Adds the end to `out`.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.holds = false;
        self.encoder.finish(out)
    }
}

/// A body that is at hand as a whole, in this coding.
pub fn whole(algorithm: Algorithm, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut coded = Coded::new(algorithm)?;
    coded.write(body, &mut out)?;
    coded.finish(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::encoder::tests::decoded;
    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];

    #[test]
    fn what_was_given_is_passed_on_when_the_backend_pauses() {
        for algorithm in ALL {
            let mut coded = Coded::new(algorithm).unwrap();
            let mut out = Vec::new();
            coded.write(b"fir", &mut out).unwrap();
            coded.write(b"st", &mut out).unwrap();
            coded.idle(&mut out).unwrap();
            assert_eq!(decoded(algorithm, &out), b"first");
            let length = out.len();
            coded.idle(&mut out).unwrap();
            assert_eq!(out.len(), length, "nothing comes from nothing");
            coded.write(b"!", &mut out).unwrap();
            coded.idle(&mut out).unwrap();
            assert_eq!(decoded(algorithm, &out), b"first!");
            coded.finish(&mut out).unwrap();
            assert_eq!(decoded(algorithm, &out), b"first!");
        }
    }

    #[test]
    fn a_body_at_hand_is_coded_as_a_whole() {
        let text: Vec<u8> = (0..100_000u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        for algorithm in ALL {
            let coded = whole(algorithm, &text).unwrap();
            assert!(coded.len() < text.len());
            assert!(decoded(algorithm, &coded) == text);
        }
    }
}
