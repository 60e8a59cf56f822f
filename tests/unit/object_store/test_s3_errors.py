"""What errors of S3 stores mean."""

import pytest

from fedws.object_store.s3_errors import S3ErrorInfo


@pytest.mark.parametrize(
    "fault",
    [
        S3ErrorInfo("InternalError", 500),
        S3ErrorInfo("SlowDown", 503),
        S3ErrorInfo("502", 502),
        S3ErrorInfo("TooManyRequests", 429),
        S3ErrorInfo("RequestTimeout", 400),
        S3ErrorInfo("OperationAborted", 409),
        S3ErrorInfo("ReadTimeoutError"),
        S3ErrorInfo("ConnectTimeoutError"),
        S3ErrorInfo("EndpointConnectionError"),
        S3ErrorInfo("IncompleteReadError"),
        S3ErrorInfo("ConnectionResetError"),
    ],
    ids=str,
)
def test_what_passes(fault: S3ErrorInfo) -> None:
    assert fault.is_retryable


@pytest.mark.parametrize(
    "fault",
    [
        S3ErrorInfo("AccessDenied", 403),
        S3ErrorInfo("RequestTimeTooSkewed", 403),
        S3ErrorInfo("NoSuchBucket", 404),
        S3ErrorInfo("404", 404),
        S3ErrorInfo("PermanentRedirect", 301),
        S3ErrorInfo("NotImplemented", 501),
        S3ErrorInfo("NoCredentialsError"),
        S3ErrorInfo("CertificateError"),
        S3ErrorInfo("ResponseParserError"),
        S3ErrorInfo("ParamValidationError"),
    ],
    ids=str,
)
def test_what_does_not(fault: S3ErrorInfo) -> None:
    assert not fault.is_retryable


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (S3ErrorInfo("NoSuchBucket", 404, "PutObject"), "there is no such bucket at s3.lab"),
        (
            S3ErrorInfo("AccessDenied", 403, "PutObject"),
            "s3.lab refuses PutObject with these credentials (AccessDenied)",
        ),
        (S3ErrorInfo("401", 401, "PutObject"), "s3.lab refuses PutObject with these credentials (401)"),
        (
            S3ErrorInfo("ExpiredToken", 400, "GetObject"),
            "s3.lab refuses GetObject with these credentials (ExpiredToken)",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403, clock_skew_seconds=1200.0),
            "this machine's clock is 20 minutes ahead of the store's, which therefore refuses; set the clock",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403, clock_skew_seconds=-1200.0),
            "this machine's clock is 20 minutes behind the store's, which therefore refuses; set the clock",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403),
            "this machine's clock is not that of the store, which therefore refuses; set the clock",
        ),
        (
            S3ErrorInfo("PermanentRedirect", 301),
            "the bucket is in another region (PermanentRedirect); set AWS_DEFAULT_REGION",
        ),
        (S3ErrorInfo("307", 307), "the bucket is in another region (307); set AWS_DEFAULT_REGION"),
        (S3ErrorInfo("SlowDown", 503, "GetObject"), "s3.lab fails at GetObject (503 SlowDown)"),
        (S3ErrorInfo("502", 502, "GetObject"), "s3.lab fails at GetObject, not as an S3 store would (502)"),
        (S3ErrorInfo("ReadTimeoutError"), "s3.lab does not answer"),
        (S3ErrorInfo("EndpointConnectionError"), "s3.lab cannot be reached"),
        (S3ErrorInfo("ProxyConnectionError"), "s3.lab cannot be reached through the proxy of the environment"),
        (S3ErrorInfo("ResponseStreamingError"), "s3.lab ended the connection"),
        (S3ErrorInfo("ResponseParserError"), "what answers at s3.lab is no S3 store"),
        (S3ErrorInfo("a\nb\x1b[2J", 418, "GetObject"), "s3.lab fails at GetObject (418 a?b?[2J)"),
    ],
)
def test_every_fault_is_one_line(fault: S3ErrorInfo, line: str) -> None:
    assert fault.describe("s3.lab") == line
