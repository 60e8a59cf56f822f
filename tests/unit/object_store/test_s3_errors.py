"""What errors of S3 stores mean."""

import pytest

from fedws.object_store.s3_errors import S3Address, S3ErrorInfo


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
        (
            S3ErrorInfo("NoSuchBucket", 404, "PutObject"),
            "bucket 'models' not found at s3.lab; create it, or put the bucket first: s3://BUCKET/models/run1",
        ),
        (
            S3ErrorInfo("NoSuchKey", 404, "ListObjectsV2"),
            "s3.lab already names a bucket; remove the bucket from AWS_ENDPOINT_URL",
        ),
        (S3ErrorInfo("NoSuchKey", 404, "GetObject"), "s3.lab failed at GetObject (404 NoSuchKey)"),
        (
            S3ErrorInfo("AccessDenied", 403, "PutObject"),
            "s3.lab rejects PutObject with these credentials (AccessDenied)",
        ),
        (S3ErrorInfo("401", 401, "PutObject"), "s3.lab rejects PutObject with these credentials (401)"),
        (
            S3ErrorInfo("ExpiredToken", 400, "GetObject"),
            "s3.lab rejects GetObject with these credentials (ExpiredToken)",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403, clock_skew_seconds=1200.0),
            "s3.lab rejects the request: the clock of this machine is 20 minutes ahead of the store's; set the clock",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403, clock_skew_seconds=-1200.0),
            "s3.lab rejects the request: the clock of this machine is 20 minutes behind the store's; set the clock",
        ),
        (
            S3ErrorInfo("RequestTimeTooSkewed", 403),
            "s3.lab rejects the request: the clock of this machine differs from the store's; set the clock",
        ),
        (
            S3ErrorInfo("PermanentRedirect", 301),
            "the bucket is in another region (PermanentRedirect); set AWS_DEFAULT_REGION",
        ),
        (S3ErrorInfo("307", 307), "the bucket is in another region (307); set AWS_DEFAULT_REGION"),
        (S3ErrorInfo("SlowDown", 503, "GetObject"), "s3.lab failed at GetObject (503 SlowDown)"),
        (S3ErrorInfo("502", 502, "GetObject"), "s3.lab failed at GetObject with HTTP status 502 and no S3 error code"),
        (S3ErrorInfo("ReadTimeoutError"), "s3.lab does not respond"),
        (S3ErrorInfo("EndpointConnectionError"), "s3.lab cannot be reached"),
        (S3ErrorInfo("ProxyConnectionError"), "s3.lab cannot be reached through the proxy of the environment"),
        (S3ErrorInfo("ResponseStreamingError"), "s3.lab closed the connection"),
        (S3ErrorInfo("ResponseParserError"), "the server at s3.lab is not an S3 store"),
        (S3ErrorInfo("a\nb\x1b[2J", 418, "GetObject"), "s3.lab failed at GetObject (418 a?b?[2J)"),
    ],
)
def test_every_fault_is_one_line(fault: S3ErrorInfo, line: str) -> None:
    assert fault.describe(S3Address("models", "run1", "s3.lab")) == line


def test_without_a_prefix_the_bucket_alone_is_put_behind_another() -> None:
    line = S3ErrorInfo("NoSuchBucket", 404).describe(S3Address("models", host="s3.lab"))
    assert line == "bucket 'models' not found at s3.lab; create it, or put the bucket first: s3://BUCKET/models"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            S3ErrorInfo("NoSuchBucket", 404, "ListObjectsV2"),
            "bucket 'run1' not found at s3.lab/models; if '/models' names the bucket, remove it from AWS_ENDPOINT_URL",
        ),
        (
            S3ErrorInfo("NoSuchKey", 404, "ListObjectsV2"),
            "bucket 'run1' not found at s3.lab/models; if '/models' names the bucket, remove it from AWS_ENDPOINT_URL",
        ),
        (S3ErrorInfo("NoSuchKey", 404, "GetObject"), "s3.lab failed at GetObject (404 NoSuchKey)"),
    ],
)
def test_a_bucket_in_the_endpoint_is_named(fault: S3ErrorInfo, line: str) -> None:
    assert fault.describe(S3Address("run1", host="s3.lab", endpoint_path="models")) == line
