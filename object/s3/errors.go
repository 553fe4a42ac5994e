package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sys/unix"
)

// meaning is what a server's error code means to us and to people.
type meaning struct {
	kind error
	text string // "" where the kind says enough
}

// meanings of the codes of Amazon S3 and of servers that have their own.
var meanings = map[string]meaning{
	"NoSuchKey":         {object.ErrNotFound, ""},
	"NotFound":          {object.ErrNotFound, ""}, // HEAD
	"NoSuchVersion":     {object.ErrNotFound, ""},
	"NoSuchUpload":      {object.ErrNotFound, "the upload was completed or aborted"},
	"NoSuchBucket":      {object.ErrNoBucket, ""},
	"InvalidBucketName": {object.ErrNoBucket, "the bucket's name is not one that S3 allows"},

	"AccessDenied":                       {object.ErrAccess, "the credentials do not allow this"},
	"AllAccessDisabled":                  {object.ErrAccess, "the account is blocked"},
	"AccountProblem":                     {object.ErrAccess, "there is a problem with the account"},
	"Forbidden":                          {object.ErrAccess, "the credentials do not allow this, or are wrong"},
	"InvalidAccessKeyId":                 {object.ErrAccess, "the server does not know the access key"},
	"SignatureDoesNotMatch":              {object.ErrAccess, "the secret key is wrong"},
	"ExpiredToken":                       {object.ErrAccess, "the session token has expired"},
	"ExpiredTokenException":              {object.ErrAccess, "the session token has expired"},
	"TokenRefreshRequired":               {object.ErrAccess, "the session token has expired"},
	"InvalidToken":                       {object.ErrAccess, "the session token is not valid"},
	"XAdminUserNotFound":                 {object.ErrAccess, "the server does not know the access key"}, // versitygw
	"InvalidSecurity":                    {object.ErrAccess, "the credentials are not valid"},
	"NotSignedUp":                        {object.ErrAccess, "the account is not signed up for S3"},
	"AuthorizationHeaderMalformed":       {object.ErrAccess, "the request was signed for another region than the bucket's"},
	"RequestTimeTooSkewed":               {object.ErrAccess, "the clock of this machine and the server's differ too much; set the clock"},
	"RequestExpired":                     {object.ErrAccess, "the clock of this machine and the server's differ too much; set the clock"},
	"InvalidObjectState":                 {object.ErrAccess, "the object is in an archive and has to be restored first"},
	"ObjectLockConfigurationError":       {object.ErrAccess, "the object is locked"},
	"PermanentRedirect":                  {object.ErrInvalid, "the bucket is in another region or must be reached by another endpoint"},
	"MovedPermanently":                   {object.ErrInvalid, "the bucket is in another region or must be reached by another endpoint"},
	"TemporaryRedirect":                  {object.ErrUnavailable, "the bucket has just been created or moved"},
	"IllegalLocationConstraintException": {object.ErrInvalid, "the bucket is in another region"},

	"PreconditionFailed":         {object.ErrPrecondition, ""},
	"ConditionalRequestConflict": {errConflict, "another request changes the object"},
	"OperationAborted":           {object.ErrUnavailable, "another request is changing the bucket or the object"},

	"SlowDown":                    {object.ErrUnavailable, "the server asks for fewer requests"},
	"ServiceUnavailable":          {object.ErrUnavailable, "the server cannot answer at present"},
	"Busy":                        {object.ErrUnavailable, "the server cannot answer at present"},
	"Throttling":                  {object.ErrUnavailable, "the server asks for fewer requests"},
	"ThrottlingException":         {object.ErrUnavailable, "the server asks for fewer requests"},
	"TooManyRequests":             {object.ErrUnavailable, "the server asks for fewer requests"},
	"RequestLimitExceeded":        {object.ErrUnavailable, "the server asks for fewer requests"},
	"InternalError":               {object.ErrUnavailable, "the server failed"},
	"RequestTimeout":              {object.ErrUnavailable, "the server waited too long for the request"},
	"XAmzServerError":             {object.ErrUnavailable, "the server failed"},
	"BadDigest":                   {object.ErrUnavailable, "the data was damaged on its way to the server"},
	"XAmzContentSHA256Mismatch":   {object.ErrUnavailable, "the data was damaged on its way to the server"},
	"XAmzContentChecksumMismatch": {object.ErrUnavailable, "the data was damaged on its way to the server"},
	"IncompleteBody":              {object.ErrUnavailable, "the request was cut short on its way"},

	"ObjectParentIsFile":        {object.ErrInvalid, "the server keeps no object below another"},
	"ExistingObjectIsDirectory": {object.ErrInvalid, "the server keeps no object below another"},

	"NotImplemented":   {object.ErrUnsupported, "the server does not implement this"},
	"MethodNotAllowed": {object.ErrUnsupported, "the server does not allow this kind of request"},

	"EntityTooLarge":                  {object.ErrInvalid, "the object is larger than the server takes"},
	"EntityTooSmall":                  {object.ErrInvalid, "a part is smaller than the server takes"},
	"InvalidPart":                     {object.ErrInvalid, "a part is not the one that was uploaded"},
	"InvalidPartOrder":                {object.ErrInvalid, "the parts are not in order"},
	"InvalidArgument":                 {object.ErrInvalid, ""},
	"InvalidRequest":                  {object.ErrInvalid, ""},
	"InvalidStorageClass":             {object.ErrInvalid, "the server does not know the storage class"},
	"InvalidEncryptionAlgorithmError": {object.ErrInvalid, "the server does not know the encryption"},
	"KeyTooLongError":                 {object.ErrInvalid, "the key is too long"},
	"MalformedXML":                    {object.ErrInvalid, ""},
	"MetadataTooLarge":                {object.ErrInvalid, "the metadata is larger than the server takes"},
	"InvalidURI":                      {object.ErrInvalid, ""},
	"InvalidRange":                    {errRange, ""},
	"RequestedRangeNotSatisfiable":    {errRange, ""},
	"InvalidDigest":                   {object.ErrInvalid, ""},

	"QuotaExceeded":                  {object.ErrNoSpace, ""},
	"InsufficientCapacity":           {object.ErrNoSpace, ""},
	"InsufficientStorage":            {object.ErrNoSpace, ""},
	"XMinioStorageFull":              {object.ErrNoSpace, ""},
	"XMinioAdminBucketQuotaExceeded": {object.ErrNoSpace, ""},
}

// byStatus is for answers without a code that we know.
func byStatus(status int) meaning {
	switch {
	case status == http.StatusNotFound:
		return meaning{object.ErrNotFound, ""}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return meanings["Forbidden"]
	case status == http.StatusPreconditionFailed:
		return meanings["PreconditionFailed"]
	case status == http.StatusRequestedRangeNotSatisfiable:
		return meaning{errRange, ""}
	case status == http.StatusMovedPermanently || status == http.StatusPermanentRedirect:
		return meanings["PermanentRedirect"]
	case status == http.StatusConflict:
		return meanings["ConditionalRequestConflict"]
	case status == http.StatusTooManyRequests:
		return meanings["SlowDown"]
	case status == http.StatusRequestTimeout:
		return meanings["RequestTimeout"]
	case status == http.StatusNotImplemented || status == http.StatusMethodNotAllowed:
		return meanings["NotImplemented"]
	case status == http.StatusInsufficientStorage:
		return meaning{object.ErrNoSpace, ""}
	case status >= 500:
		return meanings["ServiceUnavailable"]
	case status >= 400:
		return meaning{object.ErrInvalid, "the server refuses the request"}
	}
	return meaning{object.ErrUnavailable, "the server's answer makes no sense"}
}

var (
	// errConflict: of two conditional requests at one moment the server took one;
	// the other has to ask again.
	errConflict = fmt.Errorf("%w: conflict", object.ErrUnavailable)
	// errRange: the range begins at or beyond the end of the object.
	errRange = errors.New("range is beyond the object")
)

// storeError is an error of the server, or on the way to it, in our words. The
// SDK's own error is in the chain for those who want details.
type storeError struct {
	kind  error
	text  string
	cause error
}

func (e *storeError) Error() string   { return e.text }
func (e *storeError) Unwrap() []error { return []error{e.kind, e.cause} }

// fail makes the *object.Error of a failed request. w is the request's watchdog.
func (s *Store) fail(op, key string, w *watchdog.Dog, err error) error {
	if err == nil {
		return nil
	}
	return &object.Error{Op: op, Key: key, Err: s.explain(w, err)}
}

func (s *Store) explain(w *watchdog.Dog, err error) error {
	if w != nil {
		if cause := w.Parent().Err(); cause != nil {
			return cause
		}
		if cause := w.BodyError(); cause != nil {
			return cause
		}
		if w.Stalled() {
			return &storeError{object.ErrUnavailable, fmt.Sprintf("no progress for %v at %s", w.Limit(), s.where), unix.ETIMEDOUT}
		}
	}
	var known *storeError
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
		return s.storeError(m, fmt.Sprintf("HTTP %d", status), request, err)
	}
	return s.explainNetwork(err)
}

func (s *Store) explainAPI(api smithy.APIError, status int, request string, err error) error {
	code := api.ErrorCode()
	m, ok := meanings[code]
	switch {
	case ok:
	case strings.HasPrefix(code, "KMS."):
		m = meaning{object.ErrAccess, "the encryption key cannot be used"}
	case status == http.StatusNotFound && code != "":
		// Something is missing, but nobody must take it for the object.
		m = meaning{object.ErrInvalid, "the server misses something"}
	default:
		m = byStatus(status)
	}
	detail := code
	if status != 0 {
		detail += fmt.Sprintf(", HTTP %d", status)
	}
	if msg := api.ErrorMessage(); msg != "" && !strings.EqualFold(msg, code) && (m.text == "" || !ok) && m.kind != object.ErrNotFound {
		detail += ": " + msg
	}
	return s.storeError(m, detail, request, err)
}

func (s *Store) storeError(m meaning, detail, request string, err error) error {
	text := m.kind.Error()
	if m.text != "" {
		text += ": " + m.text
	}
	if request != "" {
		detail += ", request " + request
	}
	cause := err
	if errors.Is(m.kind, object.ErrNoSpace) {
		cause = errors.Join(unix.ENOSPC, err)
	}
	return &storeError{m.kind, fmt.Sprintf("%s: %s (%s)", s.where, text, detail), cause}
}

func (s *Store) explainNetwork(err error) error {
	var (
		signing   *v4.SigningError
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		badCert   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		op        *net.OpError
		timeout   interface{ Timeout() bool }
	)
	m := func(kind error, text string) error {
		return &storeError{kind, fmt.Sprintf("%s: %s: %v", s.where, text, shorten(err)), err}
	}
	switch {
	case errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &badCert):
		return m(object.ErrAccess, "the server's certificate is not to be trusted")
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return m(object.ErrInvalid, "the endpoint does not speak HTTPS")
	case errors.As(err, &signing), strings.Contains(err.Error(), "get credentials"), strings.Contains(err.Error(), "get identity"):
		return m(object.ErrAccess, "no credentials were found in environment, profile or options")
	case errors.As(err, &dns):
		return m(object.ErrUnavailable, "the host's name cannot be resolved")
	case errors.As(err, &op) && op.Op == "dial":
		return m(object.ErrUnavailable, "the server cannot be reached")
	case errors.As(err, &timeout) && timeout.Timeout():
		return m(object.ErrUnavailable, "the server does not answer")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return m(object.ErrUnavailable, "the connection was closed")
	case errors.Is(err, object.ErrInvalid), errors.Is(err, object.ErrCorrupt), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return m(object.ErrUnavailable, "the request failed")
}

// shorten returns the innermost words of a chain of errors: the SDK prefixes each
// layer with its name.
func shorten(err error) error {
	for {
		var op *net.OpError
		if errors.As(err, &op) {
			return op
		}
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
