// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pxelab/pxelab/controllers"
)

func TestReaderIn(t *testing.T) {
	var objects []client.Object
	for _, namespace := range []string{"a", "b", "c"} {
		objects = append(objects, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"}})
	}
	all := fake.NewClientBuilder().WithObjects(objects...).Build()
	for name, tt := range map[string]struct {
		namespaces []string
		options    []client.ListOption
		want       []string
	}{
		"all":                {want: []string{"a", "b", "c"}},
		"some":               {namespaces: []string{"a", "c", "d"}, want: []string{"a", "c"}},
		"one of some":        {namespaces: []string{"a", "c"}, options: []client.ListOption{client.InNamespace("c")}, want: []string{"c"}},
		"some with a filter": {namespaces: []string{"a"}, options: []client.ListOption{client.MatchingLabels{"x": "y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			list := &corev1.SecretList{}
			if err := controllers.ReaderIn(tt.namespaces, all).List(t.Context(), list, tt.options...); err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range list.Items {
				got = append(got, list.Items[i].Namespace)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("namespaces (-want +got):\n%s", diff)
			}
		})
	}
}
