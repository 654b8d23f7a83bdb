//! Messages in frames.

use bitnet_model::tap::Tap;
use proptest::prelude::*;

use super::frame::{SMALL_PAYLOAD, TRUSTED_LENGTH};
use super::*;

fn tap_header() -> Response {
    Response::Tap(TapHeader {
        tap: Tap::KCache,
        layer: Some(3),
        first_position: 5,
        rows: 2,
        width: 4,
    })
}

#[test]
fn frames_round_trip_and_then_close() {
    let mut wire = Vec::new();
    write_frame(&mut wire, &tap_header(), &[1, 2, 3]).unwrap();
    write_frame(&mut wire, &Response::Evaluated, &[]).unwrap();
    let (mut input, mut payload) = (wire.as_slice(), Vec::new());
    let first: Response = read_frame(&mut input, &mut payload).unwrap();
    assert_eq!((first, payload.as_slice()), (tap_header(), &[1, 2, 3][..]));
    let second: Response = read_frame(&mut input, &mut payload).unwrap();
    assert_eq!((second, payload.len()), (Response::Evaluated, 0));
    assert!(matches!(
        read_frame::<Response>(&mut input, &mut payload),
        Err(FrameError::Closed)
    ));
}

#[test]
fn payloads_are_whole_however_they_are_written() {
    for len in [0, SMALL_PAYLOAD, SMALL_PAYLOAD + 1, TRUSTED_LENGTH + 1] {
        let (mut wire, sent) = (Vec::new(), vec![7; len]);
        write_frame(&mut wire, &Response::Text, &sent).unwrap();
        let mut payload = vec![1];
        let _: Response = read_frame(&mut wire.as_slice(), &mut payload).unwrap();
        assert!(payload == sent, "{len} bytes");
    }
}

/// What a later version adds, such as taps that are unknown here, is not what its hello fails for.
#[test]
fn of_another_version_only_that_is_read() {
    let read = |message| {
        let mut wire = Vec::new();
        write_frame(&mut wire, &message, &[]).unwrap();
        read_hello(&mut wire.as_slice(), &mut Vec::new())
    };
    let hello = |version| {
        serde_json::json!({
            "type": "hello", "protocol": version, "engine": "mine", "version": null, "architectures": [],
            "taps": ["router"], "overwrite": false, "dtypes": [], "tokenizer": false,
        })
    };
    assert!(matches!(read(hello(3)), Err(FrameError::Version(3))));
    assert!(matches!(
        read(hello(VERSION)),
        Err(FrameError::Header { .. })
    ));
    let mut ours = hello(VERSION);
    ours["taps"] = serde_json::json!(["logits"]);
    assert!(matches!(read(ours), Ok(Response::Hello(_))));
    let other = serde_json::json!({"type": "evaluated"});
    assert!(matches!(read(other), Ok(Response::Evaluated)));
}

#[test]
fn token_ids_are_whole_little_endian_words() {
    let bytes = token_bytes(&[1, 0x0102_0304]);
    assert_eq!(bytes, [1, 0, 0, 0, 4, 3, 2, 1]);
    assert_eq!(tokens_from_bytes(&bytes), Some(vec![1, 0x0102_0304]));
    assert_eq!(tokens_from_bytes(&bytes[..7]), None);
}

#[test]
fn header_is_flat_json_with_a_type() {
    let json = serde_json::to_value(tap_header()).unwrap();
    assert_eq!(json["type"], "tap");
    assert_eq!(json["tap"], "k_cache");
    assert_eq!(json["layer"], 3);
}

/// One encoding of token IDs on the wire: no header has any.
#[test]
fn headers_hold_no_token_ids() {
    let eval = Request::Eval {
        seq_id: 0,
        first_position: 3,
        taps: vec![Tap::Logits],
        overwrite: false,
        last_logits: true,
    };
    let expected = r#"{"type":"eval","seq_id":0,"first_position":3,"taps":["logits"],"overwrite":false,"last_logits":true}"#;
    assert_eq!(serde_json::to_string(&eval).unwrap(), expected);
    let generate = Request::Generate { n_predict: 2 };
    let expected = r#"{"type":"generate","n_predict":2}"#;
    assert_eq!(serde_json::to_string(&generate).unwrap(), expected);
    let judge = Request::Judge(JudgeRequest {
        tap: Tap::Q,
        layer: Some(1),
        first_position: 0,
        n_tokens: 2,
        position: 1,
        inputs: Vec::new(),
        rows: 1,
        element: 5,
        limit: 0.5,
        explain: true,
    });
    let expected = r#"{"type":"judge","tap":"q","layer":1,"first_position":0,"n_tokens":2,"position":1,"inputs":[],"rows":1,"element":5,"limit":0.5,"explain":true}"#;
    assert_eq!(serde_json::to_string(&judge).unwrap(), expected);
    let generated = Response::Generated {
        prefill_ms: 1.5,
        decode_ms: vec![0.5],
    };
    let expected = r#"{"type":"generated","prefill_ms":1.5,"decode_ms":[0.5]}"#;
    assert_eq!(serde_json::to_string(&generated).unwrap(), expected);
}

#[test]
fn a_tap_header_that_lies_has_no_size() {
    let header = |rows, width| TapHeader {
        tap: Tap::Q,
        layer: None,
        first_position: 0,
        rows,
        width,
    };
    assert_eq!(header(2, 3).payload_bytes(), Some(24));
    for (rows, width) in [(0, 3), (2, 0), (usize::MAX, 2), (1, usize::MAX / 2)] {
        assert_eq!(header(rows, width).payload_bytes(), None);
    }
}

#[test]
fn lengths_beyond_the_cap_are_refused_before_reading() {
    let mut wire = vec![0xff; 8];
    wire.extend_from_slice(b"{}");
    let error = read_frame::<Response>(&mut wire.as_slice(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { part: "header", .. }));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_frame::<Response>(&mut bytes.as_slice(), &mut Vec::new());
    }

    #[test]
    fn a_cut_frame_is_an_error(cut in 1_usize..60) {
        let mut wire = Vec::new();
        write_frame(&mut wire, &tap_header(), &[7; 16]).unwrap();
        let cut = cut.min(wire.len() - 1);
        let error = read_frame::<Response>(&mut &wire[..cut], &mut Vec::new()).unwrap_err();
        prop_assert!(matches!(error, FrameError::Io(_)));
    }
}
