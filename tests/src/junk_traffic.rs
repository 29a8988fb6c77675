//! Junk bytes that fit no protocol.

use std::io::{Read, Write};

use crate::random::Random;

/// Random bytes that fit no protocol, or only the beginning of a valid message.
pub fn junk(random: &mut Random) -> Vec<u8> {
    let length = random.below(3000) as usize;
    let mut bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
    let heads: [&[u8]; 6] = [
        b"",
        b"GET /metrics HTTP/1.1\r\nHost: ",
        b"POST /v1/backends HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    let head = heads[random.below(6) as usize];
    bytes.splice(0..0, head.iter().copied());
    bytes
}

/// Sends the bytes, reads a little, and closes the connection.
pub fn shout(mut stream: impl Write + Read, bytes: &[u8]) {
    // The peer may close the connection on junk.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 256]);
}
