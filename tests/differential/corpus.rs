//! The corpus: requests as clients and attackers send them, made by a small grammar.
//!
//! A request has a slot each for its request line, its Host, other lines, the framing with the body, the line ends, and
//! what stands behind it. Each entry of each slot stands once in a request that is fine otherwise; then come mixtures of
//! several entries, always the same ones.

use crate::support::{BY_NUMBER, Call, Dice, QUERY, acme};
use gatepay_proxy::process::clock::Clock;
use http::Method;

/// One connection's bytes.
pub(crate) struct Case {
    /// Its number, which its requests carry as `User-Agent`, and the entries it was made of.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The entries of each slot and so many mixtures, signed now.
pub(crate) fn cases(mixtures: usize, clock: &Clock) -> Vec<Case> {
    let slots = [
        REQUEST_LINES.len(),
        HOSTS.len(),
        LINES.len(),
        FRAMINGS.len(),
        LINE_ENDS.len(),
        BEHIND.len(),
    ];
    let mut choices = vec![[0; 6]];
    for (slot, entries) in slots.into_iter().enumerate() {
        for entry in 1..entries {
            let mut choice = [0; 6];
            choice[slot] = entry;
            choices.push(choice);
        }
    }
    let mut dice = Dice::new(9_112);
    for _ in 0..mixtures {
        let mut choice = [0; 6];
        let mut below = |most: usize| usize::try_from(dice.below(most as u64)).expect("it is less");
        for _ in 0..2 + below(2) {
            let slot = below(slots.len());
            choice[slot] = below(slots[slot]);
        }
        choices.push(choice);
    }
    let made = |(number, choice)| case(number, choice, clock);
    choices.into_iter().enumerate().map(made).collect()
}

fn case(
    number: usize,
    [line, host, more, framing, ends, behind]: [usize; 6],
    clock: &Clock,
) -> Case {
    let (framing_lines, body) = FRAMINGS[framing];
    let line = REQUEST_LINES[line];
    let signed = signed(number, line.starts_with(b"GET "), clock);
    let mut head = [
        line,
        b"\r\n",
        HOSTS[host],
        LINES[more],
        &signed,
        framing_lines,
        b"\r\n",
    ]
    .concat();
    (LINE_ENDS[ends].1)(&mut head);
    let mut bytes = head;
    let fill = |out: &mut Vec<u8>, text: &[u8]| {
        let text = replaced(text, b"<body>", BY_NUMBER.as_bytes());
        out.extend(replaced(
            &text,
            b"<signed>",
            &self::signed(number, false, clock),
        ));
    };
    fill(&mut bytes, body);
    fill(&mut bytes, BEHIND[behind]);
    let name = format!(
        "{number}: {} | {} | {} | {} | {} | {}",
        line.escape_ascii(),
        HOSTS[host].escape_ascii(),
        LINES[more].escape_ascii(),
        framing_lines.escape_ascii(),
        LINE_ENDS[ends].0,
        BEHIND[behind].escape_ascii()
    );
    Case { name, bytes }
}

/// The lines that sign the body, or no body, and tell the case.
fn signed(number: usize, is_empty: bool, clock: &Clock) -> Vec<u8> {
    let body = if is_empty { "" } else { BY_NUMBER };
    let call = Call::new(&acme(), Method::POST, QUERY, body.into());
    let lines = call.lines(clock).into_iter();
    let lines = lines.filter(|(name, _)| name != "host");
    let mut text = format!("User-Agent: case-{number}\r\n");
    text.extend(lines.map(|(name, value)| format!("{name}: {value}\r\n")));
    text.into_bytes()
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

const REQUEST_LINES: &[&[u8]] = &[
    b"POST /v1/pay/order/query HTTP/1.1",
    b"GET /v2/pay/refund/details?refundRequestId=R-0001 HTTP/1.1",
    b"GET /v2/pay/refund/details?refundRequestId=R-0001&x=%2e%2e/ HTTP/1.1",
    b"HEAD /v1/pay/order/query HTTP/1.1",
    b"PUT /v1/pay/order/query HTTP/1.1",
    b"DELETE /v1/pay/order/query HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"TRACE /v1/pay/order/query HTTP/1.1",
    b"CONNECT pay.example:443 HTTP/1.1",
    b"post /v1/pay/order/query HTTP/1.1",
    b"P@ST /v1/pay/order/query HTTP/1.1",
    b"PO ST /v1/pay/order/query HTTP/1.1",
    b"\x00POST /v1/pay/order/query HTTP/1.1",
    b"POST\t/v1/pay/order/query\tHTTP/1.1",
    b" POST /v1/pay/order/query HTTP/1.1",
    b"\r\nPOST /v1/pay/order/query HTTP/1.1",
    b"\r\n\r\n\r\nPOST /v1/pay/order/query HTTP/1.1",
    b"\nPOST /v1/pay/order/query HTTP/1.1",
    b"POST  /v1/pay/order/query HTTP/1.1",
    b"POST /v1/pay/order/query  HTTP/1.1",
    b"POST /v1/pay/order/query HTTP/1.1 ",
    b"POST /v1/pay/order/query\x0bHTTP/1.1",
    b"POST /v1/pay/order/query",
    b"POST /v1/pay/order/query HTTP/0.9",
    b"POST /v1/pay/order/query HTTP/1.0",
    b"POST /v1/pay/order/query HTTP/1.2",
    b"POST /v1/pay/order/query HTTP/1.10",
    b"POST /v1/pay/order/query HTTP/01.1",
    b"POST /v1/pay/order/query HTTP/2.0",
    b"POST /v1/pay/order/query http/1.1",
    b"POST /v1/pay/order/query HTTP/1.1\r",
    b"POST /v1/pay/order/query HTTP/1.1x",
    b"POST /v1/pay/order/query HTTPS/1.1",
    b"POST http://pay.example/v1/pay/order/query HTTP/1.1",
    b"POST http://other.example/v1/pay/order/query HTTP/1.1",
    b"POST HTTP://pay.example/v1/pay/order/query HTTP/1.1",
    b"POST https://u:p@pay.example/v1/pay/order/query HTTP/1.1",
    b"POST http:///v1/pay/order/query HTTP/1.1",
    b"POST //other.example/v1/pay/order/query HTTP/1.1",
    b"POST v1/pay/order/query HTTP/1.1",
    b"POST ?x HTTP/1.1",
    b"POST /v1/pay/order/query#x HTTP/1.1",
    b"POST /v1/pay/order/query?a#b?c HTTP/1.1",
    b"POST /v1/pay/order/query? HTTP/1.1",
    b"POST /v1/pay/order/query?a=b&c=d;e HTTP/1.1",
    b"POST /v1/pay/order/query?a?b HTTP/1.1",
    b"POST /v1/pay/order/query?a b HTTP/1.1",
    b"POST /v1/pay/./order/query HTTP/1.1",
    b"POST /v1/pay/x/../order/query HTTP/1.1",
    b"POST /v1//pay/order/query HTTP/1.1",
    b"POST /v1/pay/order%2fquery HTTP/1.1",
    b"POST /v1/pay/order/%71uery HTTP/1.1",
    b"POST /v1/pay/order/query%00 HTTP/1.1",
    b"POST /v1/pay/order/query%0d%0aX:y HTTP/1.1",
    b"POST /v1/pay/order/query%zz HTTP/1.1",
    b"POST /v1/pay/order/query;x=y HTTP/1.1",
    b"POST /v1/pay/order\\query HTTP/1.1",
    b"POST /v1/pay/order/query\x00 HTTP/1.1",
    b"POST /v1/pay/order/query\x7f HTTP/1.1",
    b"POST /v1/pay/order/query\xff HTTP/1.1",
    b"POST /v1/pay/order/\xc3\xa9 HTTP/1.1",
    b"POST /v1/pay/order/query\"<>{}|^` HTTP/1.1",
    b"POST /v1/pay/order/query?\"<> HTTP/1.1",
];

const HOSTS: &[&[u8]] = &[
    b"Host: pay.example\r\n",
    b"",
    b"Host:\r\n",
    b"Host: pay.example\r\nHost: pay.example\r\n",
    b"Host: pay.example\r\nHost: other.example\r\n",
    b"host: pay.example:443\r\n",
    b"Host: pay.example:x\r\n",
    b"Host: u@pay.example\r\n",
    b"Host: pay.example/x\r\n",
    b"Host: pay.example, other.example\r\n",
    b"Host: pay.example other.example\r\n",
    b"Host : pay.example\r\n",
    b" Host: pay.example\r\n",
    b"Host: [::1]:80\r\n",
    b"Host: pay.\xffexample\r\n",
    b"Host: pay.example\x00\r\n",
    b"Host: pay.example\r\n other.example\r\n",
    b"X-Forwarded-Host: other.example\r\nHost: pay.example\r\n",
];

const LINES: &[&[u8]] = &[
    b"",
    b"X: y\r\n",
    b"X:y\r\n",
    b"X: \t y \t\r\n",
    b"X:\r\n",
    b"X: y\r\n folded\r\n",
    b"X: y\r\n\tfolded\r\n",
    b"X: y\r\n \r\n",
    b"X : y\r\n",
    b"X\t: y\r\n",
    b"X y: z\r\n",
    b"X\r\n",
    b": y\r\n",
    b"X\x00: y\r\n",
    b"X: y\x00z\r\n",
    b"X: y\x01\x1f\r\n",
    b"X: y\x7f\r\n",
    b"X: y\x0b\x0cz\r\n",
    b"X: \xff\xfe\x80\r\n",
    b"X\xff: y\r\n",
    b"X(y): z\r\n",
    b"X: y\nX-GatePay-Nonce: smuggled\r\n",
    b"X: y\rX-GatePay-Nonce: smuggled\r\n",
    b"X: y\n\r\n",
    b"X: y\r\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close, keep-alive\r\n",
    b"Connection: X-GatePay-Nonce\r\n",
    b"Connection: X-GatePay-Certificate-ClientId, close\r\n",
    b"Connection: Content-Length\r\n",
    b"Connection: Transfer-Encoding\r\n",
    b"Connection: Host\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Proxy-Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: 100-CONTINUE\r\n",
    b"Expect: something\r\n",
    b"Expect: 100-continue\r\nExpect: 100-continue\r\n",
    b"TE: trailers\r\n",
    b"Trailer: X-GatePay-Nonce\r\n",
    b"X-GatePay-Nonce: second\r\n",
    b"x-gatepay-certificate-clientid: client-globex\r\n",
    b"X_GatePay_Certificate_ClientId: client-globex\r\n",
    b"X-GatePay-Certificate-ClientId : client-globex\r\n",
    b"X-GatePay-Certificate-ClientId:\r\n client-globex\r\n",
    b"X-GatePay-On-Behalf-Of: 2124538350\r\n",
    b"X-GatePay-MerchantId: 2124538350\r\n",
    b"X-GatePay-Signature\x00: x\r\n",
    b"X-Front-Port: 1\r\n",
    b"Content-Type: text/plain\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Accept-Encoding: gzip\r\n",
    b"Range: bytes=0-1\r\n",
    b"If-None-Match: *\r\n",
    b"Cookie: a=b; c=d\r\nCookie: e=f\r\n",
    b"Forwarded: for=1.2.3.4;host=other.example\r\n",
    b"X-Original-URL: /v1/pay/order\r\nX-Rewrite-URL: /v1/pay/order\r\n",
    b"X-HTTP-Method-Override: DELETE\r\n",
    b"Max-Forwards: 0\r\n",
    b"Via: 1.1 x\r\n",
    b"Authorization: Basic eDp5\r\n",
    b"Keep-Alive: timeout=1\r\n",
    b"X: 'y' \"z\" (c) <d> {e} \\ `f`\r\n",
];

/// Lines and body.
const FRAMINGS: &[(&[u8], &[u8])] = &[
    (b"Content-Length: 28\r\n", b"<body>"),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (b"", b""),
    (b"", b"<body>"),
    (b"Content-Length: 0\r\n", b""),
    (b"Content-Length: 0\r\n", b"<body>"),
    (b"content-length:28\r\n", b"<body>"),
    (b"Content-Length: \t28 \t\r\n", b"<body>"),
    (b"Content-Length: 27\r\n", b"<body>"),
    (b"Content-Length: 29\r\n", b"<body>"),
    (b"Content-Length: 28\r\nContent-Length: 28\r\n", b"<body>"),
    (b"Content-Length: 28\r\nContent-Length: 0\r\n", b"<body>"),
    (b"Content-Length: 0\r\nContent-Length: 28\r\n", b"<body>"),
    (b"Content-Length: 28, 28\r\n", b"<body>"),
    (b"Content-Length: 28, 0\r\n", b"<body>"),
    (b"Content-Length: +28\r\n", b"<body>"),
    (b"Content-Length: -28\r\n", b"<body>"),
    (b"Content-Length: -0\r\n", b""),
    (b"Content-Length: 028\r\n", b"<body>"),
    (b"Content-Length: 0x1c\r\n", b"<body>"),
    (b"Content-Length: 28.0\r\n", b"<body>"),
    (b"Content-Length: 2 8\r\n", b"<body>"),
    (b"Content-Length: 28;\r\n", b"<body>"),
    (b"Content-Length: \"28\"\r\n", b"<body>"),
    (b"Content-Length:\r\n", b"<body>"),
    (b"Content-Length: \r\n 28\r\n", b"<body>"),
    (b"Content-Length : 28\r\n", b"<body>"),
    (b"Content_Length: 28\r\n", b"<body>"),
    (b"Content-Length\x00: 28\r\n", b"<body>"),
    (b"Content-Length: 28\x00\r\n", b"<body>"),
    (b"Content-Length: \x0b28\r\n", b"<body>"),
    (b"Content-Length: \xa028\r\n", b"<body>"),
    (b"Content-Length: 18446744073709551615\r\n", b"<body>"),
    (b"Content-Length: 18446744073709551644\r\n", b"<body>"),
    (
        b"Content-Length: 99999999999999999999999999999999\r\n",
        b"<body>",
    ),
    (b"Content-Length: 9223372036854775808\r\n", b"<body>"),
    (b"Content-Length: 4294967324\r\n", b"<body>"),
    (
        b"Content-Length: 28\r\nTransfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"0\r\n\r\nGET /v1/pay HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    (
        b"Content-Length: 28\r\nTransfer-Encoding: identity\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\nTransfer-Encoding : chunked\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\nTransfer_Encoding: chunked\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\nX: y\nTransfer-Encoding: chunked\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\nTransfer-Encoding:\x0bchunked\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\nTransfer-Encoding\x00: chunked\r\n",
        b"<body>",
    ),
    (
        b"Content-Length: 28\r\n Transfer-Encoding: chunked\r\n",
        b"<body>",
    ),
    (
        b"transfer-encoding: CHUNKED\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding:chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: \tchunked \r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding : chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked, identity\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: ,chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked,\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked;x=y\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: \"chunked\"\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: xchunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\x00\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (b"Transfer-Encoding:\r\n", b"1c\r\n<body>\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: identity\r\n", b"<body>"),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"e\r\n{\"merchantTrad\r\n0e\r\neNo\":\"A-0001\"}\r\n000\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1C\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c;x=y\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c;x=\"\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c;x\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c ;x\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c \r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b" 1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (b"Transfer-Encoding: chunked\r\n", b"1c\n<body>\n0\n\n"),
    (b"Transfer-Encoding: chunked\r\n", b"1c\r<body>\r0\r\r"),
    (b"Transfer-Encoding: chunked\r\n", b"1c\r\n<body>0\r\n\r\n"),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>xx0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"0x1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"+1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"-1c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c_\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"0000001c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"000000000000001c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"10000000000000001c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"100000000000001c\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"ffffffffffffffff\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1b\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1d\r\n<body>\r\n0\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX: y\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX-GatePay-Nonce: late\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX : y\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\n X: y\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX: y\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0\r\nX: y\x00\r\n\r\n",
    ),
    (
        b"Transfer-Encoding: chunked\r\n",
        b"1c\r\n<body>\r\n0;x=y\r\n\r\n",
    ),
    (b"Transfer-Encoding: chunked\r\n", b"1c\r\n<body>\r\n0\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"1c\r\n<body>\r\n"),
];

/// A name, and the change of a head with usual line ends.
type LineEnd = (&'static str, fn(&mut Vec<u8>));

const LINE_ENDS: &[LineEnd] = &[
    ("CR LF", |_| {}),
    ("LF", |head| *head = replaced(head, b"\r\n", b"\n")),
    ("CR", |head| *head = replaced(head, b"\r\n", b"\r")),
    ("LF CR", |head| *head = replaced(head, b"\r\n", b"\n\r")),
    ("CR CR LF", |head| {
        *head = replaced(head, b"\r\n", b"\r\r\n");
    }),
    ("the first is LF", |head| {
        let at = head.windows(2).position(|two| two == b"\r\n");
        head.remove(at.expect("a line end"));
    }),
    ("the empty line ends in LF", |head| {
        head.remove(head.len() - 2);
    }),
    ("the empty line ends in CR", |head| {
        head.pop();
    }),
    ("a blank in the empty line", |head| {
        head.insert(head.len() - 2, b' ');
    }),
    ("no empty line", |head| head.truncate(head.len() - 2)),
];

const BEHIND: &[&[u8]] = &[
    b"",
    b"POST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Content-Length: 28\r\n\r\n<body>",
    b"POST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Transfer-Encoding: chunked\r\n\r\n1c\r\n<body>\r\n0\r\n\r\nPOST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Content-Length: 28\r\n\r\n<body>",
    b"\r\n\r\nPOST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Content-Length: 28\r\n\r\n<body>",
    b"\nPOST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Content-Length: 28\r\n\r\n<body>",
    b"xPOST /v1/pay/order/query HTTP/1.1\r\nHost: pay.example\r\n<signed>Content-Length: 28\r\n\r\n<body>",
    b"\r\n",
    b"garbage",
    b"\x00\x01\x02\xff",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
];
