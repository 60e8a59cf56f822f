"""What errors of S3 stores mean."""

import pytest

from fedws.object_store.s3_errors import Fault


@pytest.mark.parametrize(
    "fault",
    [
        Fault("InternalError", 500),
        Fault("SlowDown", 503),
        Fault("502", 502),
        Fault("TooManyRequests", 429),
        Fault("RequestTimeout", 400),
        Fault("OperationAborted", 409),
        Fault("ReadTimeoutError"),
        Fault("ConnectTimeoutError"),
        Fault("EndpointConnectionError"),
        Fault("IncompleteReadError"),
        Fault("ConnectionResetError"),
    ],
    ids=str,
)
def test_what_passes(fault: Fault) -> None:
    assert fault.passing


@pytest.mark.parametrize(
    "fault",
    [
        Fault("AccessDenied", 403),
        Fault("RequestTimeTooSkewed", 403),
        Fault("NoSuchBucket", 404),
        Fault("404", 404),
        Fault("PermanentRedirect", 301),
        Fault("NotImplemented", 501),
        Fault("NoCredentialsError"),
        Fault("CertificateError"),
        Fault("ResponseParserError"),
        Fault("ParamValidationError"),
    ],
    ids=str,
)
def test_what_does_not(fault: Fault) -> None:
    assert not fault.passing


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("NoSuchBucket", 404, "PutObject"), "there is no such bucket at s3.lab"),
        (Fault("AccessDenied", 403, "PutObject"), "s3.lab refuses PutObject with these credentials (AccessDenied)"),
        (Fault("401", 401, "PutObject"), "s3.lab refuses PutObject with these credentials (401)"),
        (Fault("ExpiredToken", 400, "GetObject"), "s3.lab refuses GetObject with these credentials (ExpiredToken)"),
        (
            Fault("RequestTimeTooSkewed", 403, skew=1200.0),
            "this machine's clock is 20 minutes ahead of the store's, which therefore refuses; set the clock",
        ),
        (
            Fault("RequestTimeTooSkewed", 403, skew=-1200.0),
            "this machine's clock is 20 minutes behind the store's, which therefore refuses; set the clock",
        ),
        (
            Fault("RequestTimeTooSkewed", 403),
            "this machine's clock is not that of the store, which therefore refuses; set the clock",
        ),
        (
            Fault("PermanentRedirect", 301),
            "the bucket is in another region (PermanentRedirect); set AWS_DEFAULT_REGION",
        ),
        (Fault("307", 307), "the bucket is in another region (307); set AWS_DEFAULT_REGION"),
        (Fault("SlowDown", 503, "GetObject"), "s3.lab fails at GetObject (503 SlowDown)"),
        (Fault("502", 502, "GetObject"), "s3.lab fails at GetObject, not as an S3 store would (502)"),
        (Fault("ReadTimeoutError"), "s3.lab does not answer"),
        (Fault("EndpointConnectionError"), "s3.lab cannot be reached"),
        (Fault("ProxyConnectionError"), "s3.lab cannot be reached through the proxy of the environment"),
        (Fault("ResponseStreamingError"), "s3.lab ended the connection"),
        (Fault("ResponseParserError"), "what answers at s3.lab is no S3 store"),
        (Fault("a\nb\x1b[2J", 418, "GetObject"), "s3.lab fails at GetObject (418 a?b?[2J)"),
    ],
)
def test_every_fault_is_one_line(fault: Fault, line: str) -> None:
    assert fault.line("s3.lab") == line
