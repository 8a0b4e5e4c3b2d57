//! HTTP statuses as CoAP codes and back. Both directions are total; neither ever says 0.00.
//!
//! The map is not injective: CoAP has fewer codes, so 410 arrives as 404 and any 4xx without a
//! code of its own as 400. The exact status is not carried: the `errcode` in a Matrix error body
//! says what happened, and no client we serve decides on a status that is lost here.

use super::code::Code;

/// The code that tells a CoAP client what this HTTP status tells an HTTP client.
///
/// 200 is 2.05 for every method, not only GET: the low-bandwidth clients that exist know no other
/// success code (spec: rfc7252 §5.9, where the note says why we differ).
pub const fn code_for_status(status: u16, method: Code) -> Code {
    match status {
        201 => Code::CREATED,
        204 if matches!(method, Code::DELETE) => Code::DELETED,
        202 | 204 | 205 => Code::CHANGED,
        200..=299 => Code::CONTENT,
        304 => Code::VALID,
        // Nobody follows redirects here: what stood behind us gave no usable answer.
        300..=399 | 502 => Code::BAD_GATEWAY,
        401 => Code::UNAUTHORIZED,
        403 => Code::FORBIDDEN,
        404 | 410 => Code::NOT_FOUND,
        405 => Code::METHOD_NOT_ALLOWED,
        406 => Code::NOT_ACCEPTABLE,
        // Not 4.08, which would make a client send its blocks again.
        408 | 504 => Code::GATEWAY_TIMEOUT,
        409 => Code::CONFLICT,
        412 => Code::PRECONDITION_FAILED,
        413 => Code::TOO_LARGE,
        415 => Code::UNSUPPORTED_FORMAT,
        422 => Code::UNPROCESSABLE,
        429 => Code::TOO_MANY_REQUESTS,
        400..=499 => Code::BAD_REQUEST,
        501 => Code::NOT_IMPLEMENTED,
        503 => Code::UNAVAILABLE,
        _ => Code::INTERNAL_ERROR,
    }
}

/// The HTTP status that tells an HTTP client what this code tells a CoAP client.
///
/// 2.02 and 2.04 become 200, which is right with a body and without one.
pub const fn status_for_code(code: Code) -> u16 {
    match code {
        Code::CREATED => 201,
        Code::VALID => 304,
        Code::UNAUTHORIZED => 401,
        Code::FORBIDDEN => 403,
        Code::NOT_FOUND => 404,
        Code::METHOD_NOT_ALLOWED => 405,
        Code::NOT_ACCEPTABLE => 406,
        Code::CONFLICT => 409,
        Code::PRECONDITION_FAILED => 412,
        Code::TOO_LARGE => 413,
        Code::UNSUPPORTED_FORMAT => 415,
        Code::UNPROCESSABLE => 422,
        Code::TOO_MANY_REQUESTS => 429,
        Code::NOT_IMPLEMENTED => 501,
        Code::BAD_GATEWAY | Code::PROXYING_NOT_SUPPORTED => 502,
        Code::UNAVAILABLE => 503,
        Code::GATEWAY_TIMEOUT => 504,
        _ => match code.class() {
            2 => 200,
            4 => 400,
            5 => 500,
            // No response at all: whoever sent it is broken.
            _ => 502,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Code; 5] = [Code::GET, Code::POST, Code::PUT, Code::DELETE, Code::FETCH];

    #[test]
    fn lb_defect_4_every_status_has_a_response_code() {
        for status in 0..=999 {
            for method in METHODS {
                let code = code_for_status(status, method);
                assert!(
                    code.is_response() && code.class() != 3,
                    "{status} became {code}"
                );
            }
        }
        assert_eq!(code_for_status(429, Code::PUT), Code::TOO_MANY_REQUESTS);
        assert_eq!(code_for_status(409, Code::POST), Code::CONFLICT);
        assert_eq!(code_for_status(201, Code::POST), Code::CREATED);
    }

    /// The table that lb's clients and proxy know.
    #[test]
    fn what_lb_maps_is_mapped_the_same() {
        let lb = [
            (200, "2.05"),
            (400, "4.00"),
            (401, "4.01"),
            (403, "4.03"),
            (404, "4.04"),
            (405, "4.05"),
            (413, "4.13"),
            (500, "5.00"),
            (502, "5.02"),
            (504, "5.04"),
        ];
        for (status, code) in lb {
            assert_eq!(code_for_status(status, Code::PUT).to_string(), code);
        }
    }

    #[test]
    fn statuses_that_matrix_uses_come_back_as_they_were() {
        for status in [
            200, 201, 400, 401, 403, 404, 405, 409, 413, 429, 500, 501, 502, 503, 504,
        ] {
            assert_eq!(status_for_code(code_for_status(status, Code::POST)), status);
        }
    }

    #[test]
    fn every_code_has_a_status() {
        for code in 0..=u8::MAX {
            assert!((200..600).contains(&status_for_code(Code(code))));
        }
    }
}
