package main

import (
	"net/http"
	"os"
	"strconv"
)

func details(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		http.Error(w, `{"error": "please provide numeric product id"}`, http.StatusBadRequest)
		return
	}
	answer(w, map[string]any{"id": id, "author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200,
		"publisher": "PublisherA", "language": "English", "ISBN-10": "1234567890", "ISBN-13": "123-1234567890"})
}

func ratings(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		http.Error(w, `{"error": "please provide numeric product ID"}`, http.StatusBadRequest)
		return
	}
	answer(w, map[string]any{"id": id, "ratings": map[string]int{"Reviewer1": 5, "Reviewer2": 4}})
}

// starColors: v1 shows no stars, v2 black ones and v3 red ones.
var starColors = map[string]string{"v2": "black", "v3": "red"}

type rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

type reviewList struct {
	ID          string   `json:"id"`
	PodName     string   `json:"podname"`
	ClusterName string   `json:"clustername"`
	Reviews     []review `json:"reviews"`
}

func reviews(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		list := reviewList{ID: r.PathValue("id"), PodName: os.Getenv("HOSTNAME"), ClusterName: "null", Reviews: []review{
			{Reviewer: "Reviewer1", Text: "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"},
			{Reviewer: "Reviewer2", Text: "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare."},
		}}
		if color := starColors[version]; color != "" {
			var got struct {
				Ratings map[string]int `json:"ratings"`
			}
			_, err := call(r, "", host("ratings")+"/ratings/"+list.ID, &got)
			for i := range list.Reviews {
				list.Reviews[i].Rating = &rating{Stars: got.Ratings[list.Reviews[i].Reviewer], Color: color}
				if err != nil {
					list.Reviews[i].Rating = &rating{Error: "Ratings service is currently unavailable"}
				}
			}
		}
		answer(w, list)
	}
}
