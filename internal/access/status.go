// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxMessage is the length of a message in bytes. WebSocket clients keep only the first
// 1024 bytes of a response that is not an upgrade, which the encoded status must fit.
const maxMessage = 600

// errNoUpgrade means that a request for a stream is not an upgrade.
var errNoUpgrade = errors.New("this endpoint is a stream: connect with a WebSocket of the protocol " + streamProtocol)

// reasons are the reasons that Kubernetes gives for status codes.
var reasons = map[int]metav1.StatusReason{
	http.StatusBadRequest:          metav1.StatusReasonBadRequest,
	http.StatusForbidden:           metav1.StatusReasonForbidden,
	http.StatusNotFound:            metav1.StatusReasonNotFound,
	http.StatusMethodNotAllowed:    metav1.StatusReasonMethodNotAllowed,
	http.StatusTooManyRequests:     metav1.StatusReasonTooManyRequests,
	http.StatusInternalServerError: metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable:  metav1.StatusReasonServiceUnavailable,
}

// statusError returns an error in the form of the Kubernetes API.
func statusError(code int, message string) *apierrors.StatusError {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + " ..."
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: message,
	}}
}

// backendError returns the response to an error of the backend.
func backendError(err error) *apierrors.StatusError { return statusError(statusOf(err), err.Error()) }

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	case errors.Is(err, errNoUpgrade):
		return http.StatusUpgradeRequired
	default:
		return http.StatusInternalServerError
	}
}
