//! From a status to the form in which go-micro's clients expect a failure.

use http::HeaderMap;
use tonic::{Code, Status};

use super::{
    GoMicroError, StatusCompat,
    error::{details_of, in_detail, in_text},
    status_text::flattened,
    undecoded::as_go_refuses,
};
use crate::body::drop_malformed_details;

/// The id of what go-micro's server itself refuses.
const SERVER_ID: &str = "go.micro.server";

/// Stands among the extensions of an answer whose status is Go's already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsItIs;

/// Who said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuser {
    Handler,
    Server,
}

/// How the failures of a server's calls are told.
#[derive(Clone, Debug)]
pub(crate) struct ErrorForm {
    pub(super) service: String,
    pub(super) status_compat: StatusCompat,
    /// A coordinator called, or a branch that called on and passed its metadata along.
    pub(super) is_of_branch: bool,
}

impl ErrorForm {
    /// Gives the status in an answer's head go-micro's form.
    ///
    /// A status that tonic answered stands among the extensions too, and is the handler's; a layer
    /// writes headers alone.
    pub(crate) fn dress_head<B>(&self, response: &mut http::Response<B>) {
        if response.extensions_mut().remove::<AsItIs>().is_some() {
            return;
        }
        let refuser = match response.extensions_mut().remove::<Status>() {
            Some(_) => Refuser::Handler,
            None => Refuser::Server,
        };
        self.dress(response.headers_mut(), refuser);
    }

    /// Gives the status in headers or trailers go-micro's form; there may be none or one that says
    /// success.
    pub(crate) fn dress(&self, headers: &mut HeaderMap, refuser: Refuser) {
        // Nearly every call succeeds: that costs a look.
        if headers.get(Status::GRPC_STATUS).is_none_or(|code| code == "0") {
            return;
        }
        drop_malformed_details(headers);
        let Some(status) = Status::from_header_map(headers).filter(|status| status.code() != Code::Ok) else { return };
        let Some(dressed) = self.dressed(&status, refuser) else { return };
        for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
            headers.remove(name);
        }
        // It fails for a text that is no header value, and tonic has encoded it to be one.
        let _ = dressed.add_header(headers);
    }

    /// `None` for a status that has its form.
    fn dressed(&self, status: &Status, refuser: Refuser) -> Option<Status> {
        let details = details_of(status);
        if details.first().and_then(in_detail).is_some() {
            return None;
        }
        if self.is_of_branch {
            // A coordinator reads the code and the text of gRPC's own status; a detail of another
            // kind would end a Go branch that called on, with a panic of its client.
            let has_details = !status.details().is_empty();
            return has_details.then(|| Status::new(status.code(), status.message()));
        }
        if self.status_compat == StatusCompat::V4 && refuser == Refuser::Handler {
            return Some(as_v4_sends(status));
        }
        let id = if refuser == Refuser::Handler { &self.service } else { SERVER_ID };
        // A handler may have passed on what another server said.
        let error = in_text(status.message());
        let error = error.unwrap_or_else(|| GoMicroError::of_code(id, status.code(), status.message()));
        Some(error.to_status(status.code(), details))
    }
}

fn as_v4_sends(status: &Status) -> Status {
    if let Some(refusal) = as_go_refuses(status) {
        return refusal;
    }
    match status.code() {
        // What Go's errors of a context and plain ones become.
        code @ (Code::Cancelled | Code::DeadlineExceeded | Code::Unknown) => Status::new(code, status.message()),
        code => Status::unknown(flattened(code, status.message())),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::{super::error::with_details, *};

    fn form(status_compat: StatusCompat) -> ErrorForm {
        ErrorForm { service: "go.micro.service.order".to_owned(), status_compat, is_of_branch: false }
    }

    fn dressed(form: &ErrorForm, status: &Status, refuser: Refuser) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        headers.insert("x-own", "kept".parse().unwrap());
        form.dress(&mut headers, refuser);
        assert_eq!(headers["x-own"], "kept");
        Status::from_header_map(&headers).unwrap()
    }

    /// Code, number of go-micro's error, and whether v4 would keep the code.
    const TABLE: [(Code, i32, bool); 16] = [
        (Code::Cancelled, 500, true),
        (Code::Unknown, 500, true),
        (Code::InvalidArgument, 400, false),
        (Code::DeadlineExceeded, 408, true),
        (Code::NotFound, 404, false),
        (Code::AlreadyExists, 409, false),
        (Code::PermissionDenied, 403, false),
        (Code::ResourceExhausted, 500, false),
        (Code::FailedPrecondition, 412, false),
        (Code::Aborted, 500, false),
        (Code::OutOfRange, 500, false),
        (Code::Unimplemented, 501, false),
        (Code::Internal, 500, false),
        (Code::Unavailable, 503, false),
        (Code::DataLoss, 500, false),
        (Code::Unauthenticated, 401, false),
    ];

    #[test]
    fn a_handlers_status_keeps_its_code_and_brings_go_micros_error() {
        for (code, number, _) in TABLE {
            let status = dressed(&form(StatusCompat::Real), &Status::new(code, "no"), Refuser::Handler);
            let error = GoMicroError::new("go.micro.service.order", number, "no");
            assert_eq!(status.code(), code);
            assert_eq!(in_text(status.message()), Some(error.clone()));
            assert_eq!(details_of(&status).first().and_then(in_detail), Some(error), "{code:?}");
        }
    }

    #[test]
    fn as_v4_a_handlers_status_is_flattened() {
        for (code, _, is_kept) in TABLE {
            let status = dressed(&form(StatusCompat::V4), &Status::new(code, "no"), Refuser::Handler);
            assert!(status.details().is_empty());
            if is_kept {
                assert_eq!((status.code(), status.message()), (code, "no"));
            } else {
                assert_eq!((status.code(), status.message()), (Code::Unknown, flattened(code, "no").as_str()));
            }
        }
    }

    #[test]
    fn what_the_server_refuses_keeps_its_code_in_both() {
        for status_compat in [StatusCompat::Real, StatusCompat::V4] {
            let status = dressed(&form(status_compat), &Status::resource_exhausted("too many calls"), Refuser::Server);
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(in_text(status.message()), Some(GoMicroError::new(SERVER_ID, 500, "too many calls")));
        }
    }

    #[test]
    fn a_go_micro_error_stays_what_it_is() {
        for status_compat in [StatusCompat::Real, StatusCompat::V4] {
            let own = Status::from(GoMicroError::new("mine", 418, "short and stout"));
            let status = dressed(&form(status_compat), &own, Refuser::Handler);
            assert_eq!((status.code(), status.message()), (own.code(), own.message()));
            assert_eq!(status.details(), own.details());
        }
    }

    #[test]
    fn a_detail_of_the_users_own_comes_after_go_micros() {
        let foreign = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: vec![10, 1, 97] };
        let status = with_details(Code::NotFound, "no".to_owned(), vec![foreign.clone()]);
        let status = dressed(&form(StatusCompat::Real), &status, Refuser::Handler);
        let details = details_of(&status);
        assert!(in_detail(&details[0]).is_some());
        assert_eq!(details[1..], [foreign]);
    }

    #[test]
    fn success_and_what_is_no_status_stay() {
        let mut headers = HeaderMap::new();
        form(StatusCompat::Real).dress(&mut headers, Refuser::Handler);
        assert!(headers.is_empty());
        headers.insert(Status::GRPC_STATUS, "0".parse().unwrap());
        form(StatusCompat::Real).dress(&mut headers, Refuser::Handler);
        assert_eq!(headers.len(), 1);
    }
}
