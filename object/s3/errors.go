package s3

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// meanings of the codes of Amazon S3 and of servers that have their own.
var meanings = map[string]wire.Meaning{
	"NoSuchKey":         wire.Means(object.ErrNotFound, ""),
	"NotFound":          wire.Means(object.ErrNotFound, ""), // HEAD
	"NoSuchVersion":     wire.Means(object.ErrNotFound, ""),
	"NoSuchUpload":      wire.Means(object.ErrNotFound, "the upload was completed or aborted"),
	"NoSuchBucket":      wire.Means(object.ErrNoBucket, ""),
	"InvalidBucketName": wire.Means(object.ErrNoBucket, "the bucket's name is not one that S3 allows"),

	"AccessDenied":                       wire.Means(object.ErrAccess, "the credentials do not allow this"),
	"AllAccessDisabled":                  wire.Means(object.ErrAccess, "the account is blocked"),
	"AccountProblem":                     wire.Means(object.ErrAccess, "there is a problem with the account"),
	"Forbidden":                          wire.Means(object.ErrAccess, "the credentials do not allow this, or are wrong"),
	"InvalidAccessKeyId":                 wire.Means(object.ErrAccess, "the server does not know the access key"),
	"SignatureDoesNotMatch":              wire.Means(object.ErrAccess, "the secret key is wrong"),
	"ExpiredToken":                       wire.Means(object.ErrAccess, "the session token has expired"),
	"ExpiredTokenException":              wire.Means(object.ErrAccess, "the session token has expired"),
	"TokenRefreshRequired":               wire.Means(object.ErrAccess, "the session token has expired"),
	"InvalidToken":                       wire.Means(object.ErrAccess, "the session token is not valid"),
	"XAdminUserNotFound":                 wire.Means(object.ErrAccess, "the server does not know the access key"), // versitygw
	"InvalidSecurity":                    wire.Means(object.ErrAccess, "the credentials are not valid"),
	"NotSignedUp":                        wire.Means(object.ErrAccess, "the account is not signed up for S3"),
	"AuthorizationHeaderMalformed":       wire.Means(object.ErrAccess, "the request was signed for another region than the bucket's"),
	"RequestTimeTooSkewed":               wire.Means(object.ErrAccess, "the clock of this machine and the server's differ too much; set the clock"),
	"RequestExpired":                     wire.Means(object.ErrAccess, "the clock of this machine and the server's differ too much; set the clock"),
	"InvalidObjectState":                 wire.Means(object.ErrAccess, "the object is in an archive and has to be restored first"),
	"ObjectLockConfigurationError":       wire.Means(object.ErrAccess, "the object is locked"),
	"PermanentRedirect":                  wire.Means(object.ErrInvalid, "the bucket is in another region or must be reached by another endpoint"),
	"MovedPermanently":                   wire.Means(object.ErrInvalid, "the bucket is in another region or must be reached by another endpoint"),
	"TemporaryRedirect":                  wire.Means(object.ErrUnavailable, "the bucket has just been created or moved"),
	"IllegalLocationConstraintException": wire.Means(object.ErrInvalid, "the bucket is in another region"),

	"PreconditionFailed":         wire.Means(object.ErrPrecondition, ""),
	"ConditionalRequestConflict": wire.Means(errConflict, "another request changes the object"),
	"OperationAborted":           wire.Means(object.ErrUnavailable, "another request is changing the bucket or the object"),

	"SlowDown":                    wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"ServiceUnavailable":          wire.Means(object.ErrUnavailable, "the server cannot answer at present"),
	"Busy":                        wire.Means(object.ErrUnavailable, "the server cannot answer at present"),
	"Throttling":                  wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"ThrottlingException":         wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"TooManyRequests":             wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"RequestLimitExceeded":        wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"InternalError":               wire.Means(object.ErrUnavailable, "the server failed"),
	"RequestTimeout":              wire.Means(object.ErrUnavailable, "the server waited too long for the request"),
	"XAmzServerError":             wire.Means(object.ErrUnavailable, "the server failed"),
	"BadDigest":                   wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server"),
	"XAmzContentSHA256Mismatch":   wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server"),
	"XAmzContentChecksumMismatch": wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server"),
	"IncompleteBody":              wire.Means(object.ErrUnavailable, "the request was cut short on its way"),

	"ObjectParentIsFile":        wire.Means(object.ErrInvalid, "the server keeps no object below another"),
	"ExistingObjectIsDirectory": wire.Means(object.ErrInvalid, "the server keeps no object below another"),

	"NotImplemented":   wire.Means(object.ErrUnsupported, "the server does not implement this"),
	"MethodNotAllowed": wire.Means(object.ErrUnsupported, "the server does not allow this kind of request"),

	"EntityTooLarge":                  wire.Means(object.ErrInvalid, "the object is larger than the server takes"),
	"EntityTooSmall":                  wire.Means(object.ErrInvalid, "a part is smaller than the server takes"),
	"InvalidPart":                     wire.Means(object.ErrInvalid, "a part is not the one that was uploaded"),
	"InvalidPartOrder":                wire.Means(object.ErrInvalid, "the parts are not in order"),
	"InvalidArgument":                 wire.Means(object.ErrInvalid, ""),
	"InvalidRequest":                  wire.Means(object.ErrInvalid, ""),
	"InvalidStorageClass":             wire.Means(object.ErrInvalid, "the server does not know the storage class"),
	"InvalidEncryptionAlgorithmError": wire.Means(object.ErrInvalid, "the server does not know the encryption"),
	"KeyTooLongError":                 wire.Means(object.ErrInvalid, "the key is too long"),
	"MalformedXML":                    wire.Means(object.ErrInvalid, ""),
	"MetadataTooLarge":                wire.Means(object.ErrInvalid, "the metadata is larger than the server takes"),
	"InvalidURI":                      wire.Means(object.ErrInvalid, ""),
	"InvalidRange":                    wire.Means(wire.ErrRange, ""),
	"RequestedRangeNotSatisfiable":    wire.Means(wire.ErrRange, ""),
	"InvalidDigest":                   wire.Means(object.ErrInvalid, ""),

	"QuotaExceeded":                  wire.Means(object.ErrNoSpace, ""),
	"InsufficientCapacity":           wire.Means(object.ErrNoSpace, ""),
	"InsufficientStorage":            wire.Means(object.ErrNoSpace, ""),
	"XMinioStorageFull":              wire.Means(object.ErrNoSpace, ""),
	"XMinioAdminBucketQuotaExceeded": wire.Means(object.ErrNoSpace, ""),
}

// byStatus is for answers without a code that we know.
func byStatus(status int) wire.Meaning {
	switch status {
	case http.StatusMovedPermanently, http.StatusPermanentRedirect:
		return meanings["PermanentRedirect"]
	case http.StatusConflict:
		return meanings["ConditionalRequestConflict"]
	}
	return wire.ByStatus(status)
}

// errConflict: of two conditional requests at one moment the server took one;
// the other has to ask again.
var errConflict = fmt.Errorf("%w: conflict", object.ErrUnavailable)

// fail makes the *object.Error of a failed request. w is the request's watchdog.
func (s *Store) fail(op, key string, w *watchdog.Dog, err error) error {
	if err == nil {
		return nil
	}
	return &object.Error{Op: op, Key: key, Err: s.explain(w, err)}
}

func (s *Store) explain(w *watchdog.Dog, err error) error {
	if cause := wire.Explain(w, s.where); cause != nil {
		return cause
	}
	var known *wire.Failure
	if errors.As(err, &known) {
		return err
	}
	var status int
	var request string
	var re *smithyhttp.ResponseError
	if errors.As(err, &re) {
		status = re.HTTPStatusCode()
		if re.Response != nil {
			request = re.Response.Header.Get("x-amz-request-id")
		}
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return s.explainAPI(api, status, request, err)
	}
	if status != 0 && (status < 200 || status >= 300) {
		m := byStatus(status)
		return m.Failure(s.where, fmt.Sprintf("HTTP %d", status), request, err)
	}
	return s.explainNetwork(err)
}

func (s *Store) explainAPI(api smithy.APIError, status int, request string, err error) error {
	code := api.ErrorCode()
	m, ok := meanings[code]
	switch {
	case ok:
	case strings.HasPrefix(code, "KMS."):
		m = wire.Means(object.ErrAccess, "the encryption key cannot be used")
	case status == http.StatusNotFound && code != "":
		// Something is missing, but nobody must take it for the object.
		m = wire.Means(object.ErrInvalid, "the server misses something")
	default:
		m = byStatus(status)
	}
	detail := code
	if status != 0 {
		detail += fmt.Sprintf(", HTTP %d", status)
	}
	if msg := api.ErrorMessage(); msg != "" && !strings.EqualFold(msg, code) && (m.Text == "" || !ok) && m.Kind != object.ErrNotFound {
		detail += ": " + msg
	}
	return m.Failure(s.where, detail, request, err)
}

func (s *Store) explainNetwork(err error) error {
	var signing *v4.SigningError
	var op *net.OpError
	if errors.As(err, &signing) || (strings.Contains(err.Error(), "get credentials") || strings.Contains(err.Error(), "get identity")) && !errors.As(err, &op) {
		return &wire.Failure{Kind: object.ErrAccess, Text: s.where + ": no credentials were found in environment, profile or options", Cause: err}
	}
	return wire.ExplainNetwork(s.where, err)
}
