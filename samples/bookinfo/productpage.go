package main

import (
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
)

// productpage is the page that a person sees.
type productpage struct{}

type product struct {
	ID              int    `json:"id"`
	Title           string `json:"title"`
	DescriptionHTML string `json:"descriptionHtml"`
}

var products = []product{{0, "The Comedy of Errors", `<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Wikipedia Summary</a>: The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his most farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to puns and word play.`}}

const sessionCookie = "session"

func (p *productpage) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/productpage", http.StatusFound) })
	mux.HandleFunc("GET /index.html", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/productpage", http.StatusFound) })
	mux.HandleFunc("GET /productpage", p.page)
	mux.HandleFunc("POST /login", login)
	mux.HandleFunc("GET /logout", logout)
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, _ *http.Request) { answer(w, products) })
	mux.HandleFunc("GET /api/v1/products/{id}", forward("details", "/details/"))
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", forward("reviews", "/reviews/"))
	mux.HandleFunc("GET /api/v1/products/{id}/ratings", forward("ratings", "/ratings/"))
}

// login takes any user, and remembers the name in a cookie.
func login(w http.ResponseWriter, r *http.Request) {
	value := base64.RawURLEncoding.EncodeToString([]byte(r.FormValue("username")))
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, back(r), http.StatusFound)
}

func logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1})
	http.Redirect(w, r, back(r), http.StatusFound)
}

func back(r *http.Request) string {
	if strings.Contains(r.Referer(), "/productpage") {
		return "/productpage?u=normal"
	}
	return "/productpage"
}

// user is who is logged in; that is the end user to the services behind.
func user(r *http.Request) string {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		if name, err := base64.RawURLEncoding.DecodeString(cookie.Value); err == nil {
			return string(name)
		}
	}
	return r.Header.Get("end-user")
}

func forward(service, path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var got any
		code, err := call(r, user(r), host(service)+path+r.PathValue("id"), &got)
		if err != nil {
			w.WriteHeader(code)
			answer(w, map[string]string{"error": "Sorry, " + service + " are currently unavailable for this book."})
			return
		}
		answer(w, got)
	}
}

type pageData struct {
	User                       string
	Product                    product
	Description                template.HTML
	Details                    map[string]any
	Reviews                    reviewList
	DetailsError, ReviewsError bool
}

func (p *productpage) page(w http.ResponseWriter, r *http.Request) {
	d := pageData{User: user(r), Product: products[0], Description: template.HTML(products[0].DescriptionHTML)} //nolint:gosec // our own text
	if _, err := call(r, d.User, host("details")+"/details/0", &d.Details); err != nil {
		d.DetailsError = true
	}
	if _, err := call(r, d.User, host("reviews")+"/reviews/0", &d.Reviews); err != nil {
		d.ReviewsError = true
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, d)
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"stars": func(n int) string { return strings.Repeat("★", n) + strings.Repeat("☆", max(0, 5-n)) },
}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simple Bookstore App</title>
<style>
body{font-family:system-ui,sans-serif;margin:0;color:#1f2933;background:#f5f7fa}
nav{background:#243b53;color:#fff;padding:.8rem 2rem;display:flex;justify-content:space-between;align-items:center}
nav a,nav button{color:#fff;background:#486581;border:0;border-radius:4px;padding:.4rem .8rem;text-decoration:none;font:inherit}
nav input{border:0;border-radius:4px;padding:.4rem}
main{max-width:60rem;margin:2rem auto;padding:0 1rem}
.columns{display:grid;grid-template-columns:1fr 1fr;gap:2rem}
.card{background:#fff;border-radius:8px;padding:1.2rem 1.5rem;box-shadow:0 1px 3px #0002}
h1{font-weight:600}h4{margin:.2rem 0 1rem;color:#486581}
dt{font-weight:600}dd{margin:0 0 .5rem}
blockquote{margin:0 0 1.2rem;border-left:3px solid #bcccdc;padding-left:1rem}small{color:#627d98}
.stars{font-size:1.3rem}
</style>
</head>
<body>
<nav><b>BookInfo Sample</b>
{{if .User}}<span>{{.User}} <a href="/logout">sign out</a></span>
{{else}}<form method="post" action="/login"><input name="username" placeholder="User Name" aria-label="User Name"> <input type="password" name="passwd" placeholder="Password" aria-label="Password"> <button>Sign in</button></form>{{end}}
</nav>
<main>
<h1>{{.Product.Title}}</h1>
<p>{{.Description}}</p>
<div class="columns">
<section class="card">
{{if .DetailsError}}<h4>Error fetching product details!</h4><p>Sorry, product details are currently unavailable for this book.</p>
{{else}}<h4>Book Details</h4><dl>
{{range $name, $value := .Details}}<dt>{{$name}}:</dt><dd>{{$value}}</dd>{{end}}
</dl>{{end}}
</section>
<section class="card">
{{if .ReviewsError}}<h4>Error fetching product reviews!</h4><p>Sorry, product reviews are currently unavailable for this book.</p>
{{else}}<h4>Book Reviews</h4>
{{range .Reviews.Reviews}}<blockquote><p>{{.Text}}</p><small>{{.Reviewer}}</small>
{{with .Rating}}{{if .Error}}<p><i>{{.Error}}</i></p>{{else}}<div class="stars" style="color:{{.Color}}"><font color="{{.Color}}">{{stars .Stars}}</font></div>{{end}}{{end}}</blockquote>{{end}}
<dl><dt>Reviews served by:</dt><dd>{{.Reviews.PodName}}</dd></dl>{{end}}
</section>
</div>
</main>
</body>
</html>
`))
